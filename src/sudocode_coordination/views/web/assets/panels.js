// The lists of the page. Each function brings one part up to date with what the page knows.

import { byId, h, reconcile, setAttribute, setText } from "/assets/dom.js";
import { ago, clean, clock, conflictParts, duration, foretoldWords, plural, resourceName, resourceNames, sentence, workNames } from "/assets/format.js";
import { colour, eventFits, everyone, fits, foretold, isMine, leaseFits, messageFits, queues, recentConflicts, remaining, unread, workFits, world } from "/assets/state.js";

const MAX_ROWS = 200; // more rows help nobody; the filter does
let act = {};

export function startPanels(actions) {
  act = actions;
}

const button = (text, run, more = {}) => h("button", { type: "button", class: "small", ...more, onclick: (event) => run(event.currentTarget.item) }, text);

function shown(items, list, empty, counter, total = items.length) {
  byId(list).hidden = items.length === 0;
  byId(empty).hidden = items.length > 0;
  if (counter) setText(byId(counter), total > 0 ? total : "");
  return items.slice(0, MAX_ROWS);
}

function agentTag(id) {
  return h("button", { type: "button", class: `tag c${colour(id)}`, title: "Show only what belongs to this agent", onclick: () => act.filter(id) }, h("span", { class: "dot", "aria-hidden": "true" }), h("span", { class: "tag-name" }, clean(id, 60)));
}

// --- in short ---------------------------------------------------------------------------------------------------------------

export function drawTiles() {
  const { state } = world;
  const up = state.daemon !== false;
  const peers = state.peers ?? [];
  const clones = new Set(peers.filter((one) => one.connection !== "self").map((one) => one.peerId));
  const connected = new Set(peers.filter((one) => ["direct", "relayed"].includes(one.connection)).map((one) => one.peerId));
  const leases = state.leases ?? [];
  const held = leases.filter((one) => one.state === "granted").length;
  const clashes = (state.foretold ?? []).length + recentConflicts().length;
  const tiles = [
    { key: "clones", name: "other clones", value: up ? `${connected.size}` : "–", more: up ? `of ${clones.size} connected` : "", bad: connected.size < clones.size },
    { key: "agents", name: "agents", value: up ? everyone().length : "–", more: `${plural((state.work ?? []).length, "at work", "at work")}` },
    { key: "leases", name: "leases", value: held, more: "held" },
    { key: "queue", name: "waiting", value: leases.length - held, more: "in the queue", warn: leases.length > held },
    { key: "conflicts", name: "conflicts", value: clashes, more: "foretold or told of", bad: clashes > 0 },
    { key: "unread", name: "for you", value: unread().length, more: "new messages", warn: unread().length > 0 },
  ];
  reconcile(
    byId("tiles"),
    tiles,
    (one) => one.key,
    () => h("div", { class: "tile" }, h("dt"), h("dd", {}, h("strong"), " ", h("span", { class: "faint" }))),
    (element, one) => {
      setText(element.querySelector("dt"), one.name);
      setText(element.querySelector("strong"), one.value);
      setText(element.querySelector("dd span"), one.more);
      element.classList.toggle("bad", Boolean(one.bad));
      element.classList.toggle("warn", Boolean(one.warn));
    },
  );
}

// --- agents -----------------------------------------------------------------------------------------------------------------

const CONNECTIONS = { self: "this clone", direct: "direct", relayed: "relayed", connecting: "connecting", disconnected: "away" };

function connectionOf(agent) {
  if (agent.own) return "self";
  return agent.peer?.connection ?? "disconnected";
}

export function drawAgents() {
  const found = everyone().filter((one) => fits(one.id) || one.work.some(workFits) || (world.state.leases ?? []).some((lease) => lease.agentId === one.id && leaseFits(lease)));
  setText(byId("n-agents"), found.length || "");
  reconcile(
    byId("agents"),
    found.slice(0, MAX_ROWS),
    (one) => one.id,
    (one) => h("li", { class: `agent c${colour(one.id)}` }, h("div", { class: "row between" }, agentTag(one.id), h("span", { class: "badge" })), h("p", { class: "doing" }), h("p", { class: "faint small-text" })),
    (element, one) => {
      const connection = connectionOf(one);
      const badge = element.querySelector(".badge");
      const latency = ["direct", "relayed"].includes(connection) && typeof one.peer?.latencyMs === "number" ? ` · ${one.peer.latencyMs < 10 ? one.peer.latencyMs.toFixed(1) : Math.round(one.peer.latencyMs)} ms` : "";
      setText(badge, one.me ? "you" : (CONNECTIONS[connection] ?? clean(connection, 20)) + latency);
      setAttribute(badge, "data-connection", one.me ? "me" : connection);
      const [work] = one.work;
      const on = work ? workNames(work) : "";
      setText(element.querySelector(".doing"), work ? [clean(work.status, 160), on].filter(Boolean).join(" — ") : "");
      element.querySelector(".doing").hidden = !work;
      const facts = [one.held && `holds ${one.held}`, one.waiting && `waits for ${one.waiting}`, work && `since ${ago(work.startedAt).replace(" ago", "")}`, !one.own && one.peer?.lastSeen && connection === "disconnected" && `seen ${ago(one.peer.lastSeen)}`];
      setText(element.querySelector(".small-text"), facts.filter(Boolean).join(" · ") || "nothing at the moment");
    },
  );
}

// --- leases and who waits ---------------------------------------------------------------------------------------------------

function gradeOf(lease) {
  const shared = lease.mode === "shared" ? "shared" : "";
  const grade = lease.grade === "strict" ? `strict ${lease.token ?? ""}`.trim() : lease.grade === "provisional" ? "provisional" : "";
  return [grade, shared].filter(Boolean).join(", ");
}

function resourceButtons(resources) {
  return resources.slice(0, 3).map((resource) => h("button", { type: "button", class: "resource", title: "Who held it when", onclick: () => act.inspect(resource) }, resourceName(resource)));
}

function drawTime(element, lease) {
  const left = Math.max(0, remaining(lease));
  const share = Math.max(0, Math.min(1, left / Math.max(1, lease.ttlMs)));
  setText(element.querySelector(".left"), duration(left));
  element.querySelector(".fill").style.transform = `scaleX(${share.toFixed(3)})`;
  element.classList.toggle("short", left < 30_000);
}

function makeLease(lease) {
  const names = resourceButtons(lease.resources);
  if (lease.resources.length > 3) names.push(h("span", { class: "faint", title: lease.resources.map(resourceName).join("\n") }, `+${lease.resources.length - 3}`));
  return h(
    "tr",
    { class: "lease" },
    h("th", { scope: "row" }, h("div", { class: "names" }, ...names), h("span", { class: "grade faint small-text" })),
    h("td", {}, agentTag(lease.agentId)),
    h("td", { class: "time" }, h("span", { class: "left" }), h("span", { class: "bar-of-time", "aria-hidden": "true" }, h("span", { class: "fill" }))),
    h("td", { class: "note" }),
    h("td", { class: "actions" }, lease.mine && isMine(lease.agentId) ? button("Release", act.release, { "aria-label": `Release ${resourceNames(lease.resources)}` }) : button("Ask for it", act.ask, { "aria-label": `Ask ${clean(lease.agentId, 60)} to release ${resourceNames(lease.resources)}` })),
  );
}

export function drawLeases() {
  const all = (world.state.leases ?? []).filter((one) => one.state === "granted");
  const found = all.filter(leaseFits).sort((a, b) => resourceName(a.resources[0]).localeCompare(resourceName(b.resources[0])));
  const rows = shown(found, "leases", "no-leases", "n-leases");
  byId("leases").closest(".scroll").hidden = found.length === 0;
  setText(byId("no-leases"), all.length > 0 ? "No lease fits the filter." : "Nobody holds a lease.");
  reconcile(byId("leases"), rows, (one) => one.claimId, makeLease, (row, lease) => {
    row.lease = lease;
    row.querySelector(".actions button").item = lease;
    setText(row.querySelector(".grade"), gradeOf(lease));
    const note = row.querySelector(".note");
    setText(note, clean(lease.note, 200));
    setAttribute(note, "title", lease.handover ? `${clean(lease.handover.agentId, 60)} left commit ${clean(lease.handover.commit, 10)} behind` : null);
    drawTime(row.querySelector(".time"), lease);
  });
}

// Once a second: only what runs.
export function drawTimes() {
  for (const row of byId("leases").children) drawTime(row.querySelector(".time"), row.lease);
}

export function drawQueue() {
  const found = queues();
  const waiting = (world.state.leases ?? []).filter((one) => one.state !== "granted").length;
  reconcile(
    byId("queue"),
    shown(found, "queue", "no-queue", "n-queue", waiting),
    (one) => one.key,
    (one) => h("li", {}, h("div", { class: "names" }, ...resourceButtons([one.resource])), h("p", { class: "faint small-text" }), h("ol", { class: "waiters" })),
    (element, one) => {
      setText(element.querySelector("p"), one.holders.length > 0 ? `held by ${one.holders.map((id) => clean(id, 60)).join(", ")}` : "being decided");
      reconcile(
        element.querySelector("ol"),
        one.waiting,
        (lease) => lease.claimId,
        (lease) => h("li", {}, agentTag(lease.agentId), h("span", { class: "faint small-text" }), lease.mine && isMine(lease.agentId) ? button("Leave", act.release, { "aria-label": `${clean(lease.agentId, 60)}: no longer wait for ${resourceName(one.resource)}` }) : null),
        (item, lease) => {
          const leave = item.querySelector("button.small");
          if (leave) leave.item = lease;
          setText(item.querySelector(":scope > span"), [`since ${ago(lease.since).replace(" ago", "")}`, lease.priority !== 0 && `priority ${lease.priority}`, clean(lease.note, 80)].filter(Boolean).join(" · "));
        },
      );
    },
  );
}

// --- messages ---------------------------------------------------------------------------------------------------------------

export function drawMessages() {
  const me = world.state.agent;
  const found = (world.state.messages ?? []).filter(messageFits).sort((a, b) => b.sentAt.localeCompare(a.sentAt));
  const fresh = new Set(unread().map((one) => one.messageId));
  byId("read-all").hidden = fresh.size === 0;
  reconcile(
    byId("messages"),
    shown(found, "messages", "no-messages", "n-messages", fresh.size),
    (one) => `${one.peerId} ${one.messageId}`,
    (one) =>
      h(
        "li",
        { class: "message" },
        h("p", { class: "row" }, agentTag(one.agentId), h("span", { class: "faint small-text whom" }), h("span", { class: "faint small-text when" })),
        h("p", { class: "said" }, clean(one.text, 1000)),
        h("p", { class: "row" }, ...(one.resource ? resourceButtons([one.resource]) : []), one.mine && one.agentId === me ? null : button("Answer", act.answer, { "aria-label": `Answer ${clean(one.agentId, 60)}` }), button("Mark as read", act.read, { class: "small quiet read", "aria-label": `Mark the message of ${clean(one.agentId, 60)} as read` }), h("span", { class: "faint small-text readers" })),
      ),
    (element, one) => {
      element.classList.toggle("new", fresh.has(one.messageId));
      for (const each of element.querySelectorAll("button.small")) each.item = one;
      element.querySelector(".read").hidden = !fresh.has(one.messageId);
      const whom = one.to.length > 0 ? `to ${one.to.map((id) => clean(id, 60)).join(", ")}` : one.resource ? "to all on it" : "to everybody";
      setText(element.querySelector(".whom"), one.kind === "release" ? `${whom}, asks to release` : whom);
      setText(element.querySelector(".when"), ago(one.sentAt));
      setText(element.querySelector(".readers"), one.acknowledgedBy.length > 0 ? `read by ${one.acknowledgedBy.map((id) => clean(id, 60)).join(", ")}` : "");
    },
  );
}

// --- conflicts and events ---------------------------------------------------------------------------------------------------

const resourceButton = (resource) => h("button", { type: "button", class: "resource", onclick: () => act.inspect(resource) }, resourceName(resource));

// Those that stand, and those that were told of within the hour: nothing tells when these are over.
export function drawConflicts() {
  const standing = foretold().map((one) => ({
    key: JSON.stringify([one.path, one.kind, one.worktree, one.theirPeerId, one.theirWorktree]),
    agents: one.agents,
    at: one.since,
    parts: [{ resource: ["file", one.path], text: foretoldWords(one) }],
  }));
  const told = recentConflicts().filter((one) => fits(one.agentId, sentence(one))).map((one) => ({ key: one.number, agents: [one.agentId], at: one.timestamp, parts: conflictParts(one).slice(0, 6) }));
  const found = [...standing, ...told];
  setText(byId("no-conflicts"), world.state.foretelling ? "None: what all have changed would merge." : "None were told of. With enable_file_diffs = true, conflicts are foretold from what is changed and not committed.");
  reconcile(
    byId("conflicts"),
    shown(found, "conflicts", "no-conflicts", "n-conflicts"),
    (one) => one.key,
    (one) => h("li", { class: "conflict" }, h("p", { class: "row" }, ...one.agents.slice(0, 4).map(agentTag), h("span", { class: "faint small-text when" })), ...one.parts.map((part) => h("p", {}, resourceButton(part.resource), " ", h("span", { class: "words" })))),
    (element, one) => {
      setText(element.querySelector(".when"), ago(one.at));
      const words = element.querySelectorAll(".words");
      one.parts.forEach((part, index) => words[index] && setText(words[index], part.text.replace(`${resourceName(part.resource)}: `, "").replace(`${resourceName(part.resource)} `, "")));
    },
  );
}

export function drawEvents() {
  const source = world.paused ?? world.events;
  const found = source.filter(eventFits);
  reconcile(
    byId("events"),
    shown(found, "events", "no-events"),
    (one) => one.number,
    (one) => h("li", { "data-type": one.type }, h("time", { datetime: clean(one.timestamp, 40) }, clock(one.timestamp)), h("span", { class: `dot c${colour(one.agentId)}`, "aria-hidden": "true" }), h("span", {}, sentence(one))),
  );
  setText(byId("no-events"), source.length > 0 ? "No event fits the filter." : "Nothing happened yet.");
}

export function drawFoot() {
  const { state } = world;
  if (state.daemon === false) return;
  const remote = state.remote ?? {};
  const where = `${clean(remote.name, 40)}/${clean(remote.branch, 60)}`;
  const health = { ok: `git remote ${where} read ${ago(remote.lastRead)}`, unreachable: `git remote ${where} can't be reached: ${clean(remote.reason, 120)}`, unknown: `git remote ${where} not read yet` };
  const left = Object.entries(state.leftOut ?? {}).map(([name, count]) => `${count} more ${name} not shown`);
  setText(byId("foot"), [health[remote.state], `peer …${clean(state.peerId, 80).slice(-8)}`, `coord ${clean(state.version, 20)}`, ...left].filter(Boolean).join(" · "));
}

