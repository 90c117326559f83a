// Asking before something is done, what is known of one resource, and a word on how it went.

import { post } from "/assets/session.js";
import { byId, h, reconcile, setText } from "/assets/dom.js";
import { ago, clean, conflictParts, duration, ending, foretoldWords, moment, parseResource, resourceName } from "/assets/format.js";
import { everyone, isMine, onResource, remaining, world } from "/assets/state.js";

const TOAST_MS = 6000;
let toastTimer = 0;

export function toast(text, bad = false) {
  const box = byId("toast");
  box.classList.toggle("bad", bad);
  box.hidden = false;
  setText(box, text);
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => (box.hidden = true), TOAST_MS);
}

// Do it, and say how it went.
async function doing(name, body, done) {
  try {
    toast(done(await post(name, body)));
    return true;
  } catch (error) {
    toast(error.hint ? `${error.message} (${error.hint})` : error.message, true);
    return false;
  }
}

// --- a question -------------------------------------------------------------------------------------------------------------

let onYes = null;

// { title, text, yes, words: null or { label, value }, to: null or [agent] (the first is "everybody") }
function question({ title, text = "", yes, words = null, to = null, danger = false }, then) {
  setText(byId("ask-title"), title);
  setText(byId("ask-text"), text);
  byId("ask-text").hidden = !text;
  setText(byId("ask-yes"), yes);
  byId("ask-yes").classList.toggle("danger", danger);
  byId("ask-words-row").hidden = words === null;
  byId("ask-words").required = words?.required ?? false;
  setText(byId("ask-label"), words?.label ?? "");
  byId("ask-words").value = words?.value ?? "";
  byId("ask-to-row").hidden = to === null;
  byId("ask-to").replaceChildren(...(to ?? []).map((name, index) => h("option", { value: index === 0 ? "" : name }, clean(name, 60))));
  onYes = then;
  byId("ask").showModal();
  (words === null ? byId("ask-no") : byId("ask-words")).focus();
}

export function startDialogs() {
  byId("ask-no").addEventListener("click", () => byId("ask").close());
  byId("ask-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const yes = byId("ask-yes");
    yes.disabled = true;
    const done = await onYes({ words: byId("ask-words").value.trim(), to: byId("ask-to").value });
    yes.disabled = false;
    if (done) byId("ask").close();
  });
  byId("inspect-close").addEventListener("click", () => byId("inspect").close());
  byId("inspect-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (byId("inspect-path").value.trim()) inspect(parseResource(byId("inspect-path").value));
  });
  for (const dialog of [byId("ask"), byId("inspect")]) {
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // beside it
  }
  byId("inspect").addEventListener("close", () => (inspected = null));
}

export function askRelease(lease) {
  const names = lease.resources.map(resourceName).join(", ");
  const waiting = lease.state !== "granted";
  question(
    {
      title: waiting ? "Leave the queue?" : "Release this lease?",
      text: waiting ? `${clean(lease.agentId, 60)} no longer waits for ${names}.` : `${names}, held by ${clean(lease.agentId, 60)} of this clone. Whoever waits gets it at once.`,
      yes: waiting ? "Leave" : "Release",
      danger: true,
    },
    () =>
      doing("release", { resources: lease.resources, agent: lease.agentId }, (answer) =>
        answer.released.length > 0 ? `released ${names}` : "there was nothing to release any more",
      ),
  );
}

export function askHolder(lease) {
  const resource = lease.resources[0];
  const names = lease.resources.map(resourceName).join(", ");
  question(
    {
      title: `Ask ${clean(lease.agentId, 60)} to release`,
      text: `${names}. The answer will be among the messages.`,
      yes: "Ask",
      words: { label: "Your words", value: `please release ${clean(resourceName(resource), 200)} when you can`, required: true },
    },
    ({ words }) => doing("say", { text: words, resource, kind: "release" }, (sent) => `asked ${sent.to.map((id) => clean(id, 60)).join(", ")}`),
  );
}

export function say({ to = null, resource = null, replyTo = "", about = "" } = {}) {
  const others = everyone().filter((one) => !one.me).map((one) => one.id);
  const fixed = to !== null || resource !== null;
  question(
    {
      title: to !== null ? `${replyTo ? "Answer" : "Message to"} ${clean(to, 60)}` : resource !== null ? `Message to all on ${resourceName(resource)}` : "Say something",
      text: about,
      yes: "Send",
      to: fixed ? null : ["everybody", ...others],
      words: { label: "Message", value: "", required: true },
    },
    ({ words, to: picked }) => {
      const whom = to ?? picked;
      return doing("say", { text: words, to: whom ? [whom] : [], resource: to === null ? resource : null, replyTo }, () => "sent");
    },
  );
}

export const markRead = (messages) =>
  doing("read", { messageIds: messages.map((one) => one.messageId) }, (answer) => `${answer.read.length} read; who sent them sees that`);

// --- one resource -----------------------------------------------------------------------------------------------------------

let inspected = null;

export function inspect(resource) {
  inspected = resource;
  setText(byId("inspect-title"), resource === null ? "History of a path" : resourceName(resource));
  byId("inspect-form").hidden = resource !== null;
  byId("inspect-history").replaceChildren();
  byId("inspect-none").hidden = true;
  showInspected();
  if (!byId("inspect").open) byId("inspect").showModal();
  if (resource === null) byId("inspect-path").focus();
  else showHistory(resource);
}

// How it is now; called with every new state.
export function showInspected() {
  const now = byId("inspect-now");
  if (inspected === null) {
    now.replaceChildren();
    byId("inspect-actions").replaceChildren();
    return;
  }
  const resource = inspected;
  const { leases, work, changes, foretold, conflicts } = onResource(resource);
  const lines = [
    ...leases.toSorted((a, b) => (b.state === "granted") - (a.state === "granted") || (a.position ?? 0) - (b.position ?? 0)).map((one) => ({ key: one.claimId, text: leaseWords(one) })),
    ...work.map((one) => ({ key: `w${one.peerId}${one.agentId}`, text: `${clean(one.agentId, 60)} works on it${one.status ? `: ${clean(one.status)}` : ""}` })),
    ...changes.map((one, index) => ({ key: `d${index}`, text: `${one.agents.map((id) => clean(id, 60)).join(", ") || "somebody"} has changed it${one.branch ? ` on ${clean(one.branch, 80)}` : ""}; not pushed yet` })),
    ...foretold.map((one) => ({ key: `f${one.path}${one.kind}${one.theirPeerId}${one.worktree}${one.theirWorktree}`, text: foretoldWords(one) })),
    ...conflicts.map((one) => ({ key: `c${one.number}`, text: `conflict, ${ago(one.timestamp)}: ${conflictParts(one).map((part) => part.text).join("; ")}` })),
  ];
  reconcile(now, lines.length > 0 ? lines : [{ key: "none", text: "nobody holds it, waits for it or works on it" }], (one) => one.key, () => h("li"), (element, one) => setText(element, one.text));
  const actions = [
    ...leases.filter((one) => isMine(one.agentId) && one.mine).map((one) => ({ key: `r${one.claimId}`, text: one.state === "granted" ? `Release for ${clean(one.agentId, 40)}` : `Leave the queue for ${clean(one.agentId, 40)}`, run: () => askRelease(one) })),
    ...leases.filter((one) => one.state === "granted" && one.agentId !== world.state.agent).map((one) => ({ key: `a${one.claimId}`, text: `Ask ${clean(one.agentId, 40)} to release`, run: () => askHolder(one) })),
    { key: "say", text: "Message to all on it", run: () => say({ resource }) },
  ];
  reconcile(byId("inspect-actions"), actions, (one) => one.key, () => h("button", { type: "button", onclick: (event) => event.currentTarget.run() }), (element, one) => {
    element.run = one.run;
    setText(element, one.text);
  });
}

function leaseWords(lease) {
  const who = clean(lease.agentId, 60);
  const note = lease.note ? `: ${clean(lease.note)}` : "";
  if (lease.state !== "granted") return `${who} waits for it, place ${lease.position ?? "?"}${note}`;
  return `${who} holds ${lease.resources.map(resourceName).join(", ")}, ${duration(remaining(lease))} left${note}`;
}

async function showHistory(resource) {
  let found;
  try {
    found = (await post("history", { resource })).history;
  } catch (error) {
    toast(error.message, true);
    return;
  }
  if (inspected !== resource) return;
  byId("inspect-none").hidden = found.length > 0;
  byId("inspect-history").replaceChildren(...found.map((one) => {
    const from = Date.parse(one.grantedAt);
    const until = one.endedAt ? Date.parse(one.endedAt) : Date.now();
    const how = one.lapsed ? ending("lapsed") : one.endedAt ? `${ending(one.reason)}${one.rival ? ` (${clean(one.rival, 60)})` : ""}` : "held now";
    const commit = one.commit ? `, left ${clean(one.commit, 11).slice(0, 10)}${one.branch ? ` on ${clean(one.branch, 60)}` : ""}` : "";
    return h("tr", {}, h("th", { scope: "row" }, clean(one.agentId, 60)), h("td", {}, moment(one.grantedAt)), h("td", {}, duration(until - from)), h("td", {}, how + commit));
  }));
}
