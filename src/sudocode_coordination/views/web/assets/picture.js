// Who touches what, as a picture: agents on the left, paths on the right, a line for each pair. Where there are too many paths for a
// picture, folders stand for them. The table below it says the same in words.

import { byId, h, reconcile, s, setAttribute, setText } from "/assets/dom.js";
import { clean, plural, resourceKey, resourceName } from "/assets/format.js";
import { colour, touches, world } from "/assets/state.js";

const MAX_PATHS = 14; // more lines than that can't be followed with the eye
const MAX_AGENTS = 12;
const MAX_ROWS = 300; // of the table
const ENOUGH = 4; // groups that say something: then a folder with too much in it stays closed
const ROW = 34;
const EDGE_PAD = 14;
const HOW = { holds: "holds", waits: "waits for", changes: "has changed", works: "works on" };
const RANK = { holds: 4, waits: 3, changes: 2, works: 1 };
const REST = "\u0000rest";

let current = null; // key of the node that Tab comes to
let chosen = () => {};
let lit = null; // key of the node that stands out
let svg = null;
const layers = {};

export function startPicture(onChosen) {
  chosen = onChosen;
  svg = s("svg", { role: "group", "aria-labelledby": "h-picture", "aria-describedby": "picture-help", onkeydown: moved });
  layers.edges = s("g", { "aria-hidden": "true" });
  layers.nodes = s("g");
  svg.append(layers.edges, layers.nodes);
  byId("picture").append(svg);
  new ResizeObserver(() => drawPicture()).observe(byId("picture"));
}

// --- what is in it ----------------------------------------------------------------------------------------------------------

// Path -> name of the group that stands for it, in at most `room` groups: folders are opened, the fullest first, as long as what is in
// them has room. Of a folder with too much in it the fullest parts are shown, and the rest as one.
function grouping(paths, room) {
  const root = { path: "", parts: new Map(), size: 0 };
  for (const path of paths) {
    let node = root;
    node.size += 1;
    for (const part of path.match(/[^/]+\/?|\/+/g) ?? [path]) {
      if (!node.parts.has(part)) node.parts.set(part, { path: node.path + part, parts: new Map(), size: 0 });
      node = node.parts.get(part);
      node.size += 1;
    }
    node.whole = true; // it is held itself, with all that is in it
  }
  const open = (node) => [...node.parts.values(), ...(node.whole && node.parts.size > 0 ? [{ path: node.path, parts: new Map(), size: 1, whole: true }] : [])];
  let groups = [root];
  for (;;) {
    const closed = groups.filter((node) => node.parts.size > 0 && !node.rest).sort((a, b) => b.size - a.size);
    const fitting = closed.find((node) => groups.length - 1 + open(node).length <= room);
    const [chosen] = fitting ? [fitting] : closed;
    if (chosen === undefined) break;
    const inside = open(chosen).sort((a, b) => b.size - a.size || a.path.localeCompare(b.path));
    const others = groups.filter((node) => node !== chosen);
    if (fitting) {
      groups = [...others, ...inside];
      continue;
    }
    if (groups.length >= ENOUGH) break;
    const shown = inside.slice(0, Math.max(0, room - others.length - 1));
    if (shown.length > 1) groups = [...others, ...shown, { ...chosen, rest: inside.slice(shown.length) }];
    break;
  }
  const found = new Map();
  const gather = (node, name) => {
    if (node.whole) found.set(node.path, name);
    for (const part of node.parts.values()) gather(part, name);
  };
  for (const node of groups) {
    if (node.rest) for (const one of node.rest) gather(one, `${node.path}…`);
    else gather(node, node.path);
  }
  return found;
}

function model() {
  const found = touches();
  const clashing = new Set((world.state.foretold ?? []).map((one) => one.path));
  const files = found.filter((one) => one.resource[0] === "file").map((one) => one.resource[1]);
  const others = new Set(found.filter((one) => one.resource[0] !== "file").map((one) => resourceKey(one.resource))).size;
  const groups = grouping(new Set(files), Math.max(MAX_PATHS / 2, MAX_PATHS - others));
  const agents = new Map();
  const paths = new Map();
  for (const { agent, resource, how } of found) {
    const [type, path] = resource;
    const name = type === "file" ? groups.get(path) : resourceName(resource);
    const key = type === "file" ? `file\u0000${name}` : resourceKey(resource);
    if (!paths.has(key)) paths.set(key, { kind: "path", key, name: clean(name), members: new Map(), edges: new Map(), touching: 0, clash: false });
    const node = paths.get(key);
    node.members.set(resourceKey(resource), resource);
    node.touching += 1;
    node.clash ||= type === "file" && clashing.has(path);
    const edge = node.edges.get(agent) ?? { how, count: 0 };
    node.edges.set(agent, { how: RANK[how] > RANK[edge.how] ? how : edge.how, count: edge.count + 1 });
    if (!agents.has(agent)) agents.set(agent, { kind: "agent", key: `agent\u0000${agent}`, name: clean(agent, 60), id: agent, holds: 0, changes: 0, waits: 0, works: 0 });
    agents.get(agent)[how] += 1;
  }
  const shownAgents = most([...agents.values()], MAX_AGENTS, (one) => one.holds + one.changes + one.waits + one.works).sort((a, b) => a.name.localeCompare(b.name));
  const place = new Map(shownAgents.map((one, index) => [one.id, index]));
  let nodes = most([...paths.values()], MAX_PATHS, (one) => one.touching + (one.edges.size > 1 || one.clash ? 1000 : 0));
  for (const node of nodes) for (const agent of node.edges.keys()) if (!place.has(agent)) node.edges.delete(agent);
  nodes = nodes.filter((node) => node.edges.size > 0);
  const middle = (node) => [...node.edges.keys()].reduce((sum, agent) => sum + place.get(agent), 0) / node.edges.size;
  nodes.sort((a, b) => middle(a) - middle(b) || a.name.localeCompare(b.name));
  const hidden = { agents: agents.size - shownAgents.length, paths: paths.size - nodes.length };
  return { found, agents: shownAgents, nodes, hidden };
}

function most(items, limit, weight) {
  return items.length <= limit ? items : items.sort((a, b) => weight(b) - weight(a) || a.name.localeCompare(b.name)).slice(0, limit);
}

// --- drawing ----------------------------------------------------------------------------------------------------------------

const pen = document.createElement("canvas").getContext("2d");
const FONTS = { agent: '600 14px system-ui, "Segoe UI", "Noto Sans", sans-serif', path: '13px ui-monospace, "SFMono-Regular", "DejaVu Sans Mono", monospace' };

function widthOf(text, kind) {
  pen.font = FONTS[kind];
  return pen.measureText(text).width;
}

// The middle of a long name says least.
function fitted(text, kind, width) {
  const fits = (one) => widthOf(one, kind) <= width;
  if (fits(text)) return text;
  let keep = text.length - 1;
  const cut = (n) => `${text.slice(0, Math.ceil(n * 0.35))}…${text.slice(text.length - Math.floor(n * 0.65))}`;
  while (keep > 2 && !fits(cut(keep))) keep -= 1;
  return cut(keep);
}

export function drawPicture() {
  if (svg === null || world.state === null) return;
  const { found, agents, nodes, hidden } = model();
  const box = byId("picture");
  const width = Math.max(280, box.clientWidth);
  const rows = Math.max(agents.length, nodes.length, 1) + (hidden.agents || hidden.paths ? 1 : 0);
  const height = rows * ROW + 2 * EDGE_PAD;
  box.hidden = agents.length === 0;
  setText(byId("picture-help"), agents.length === 0 ? "Nobody touches anything now, or nothing fits the filter." : helpText(hidden));
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("width", width);
  svg.setAttribute("height", height);
  const widest = (list) => Math.max(0, ...list.map((node) => widthOf(node.name + many(node), node.kind)));
  const left = Math.min(widest(agents) + 26, width * 0.3);
  const right = Math.max(width * 0.45, width - widest(nodes) - 70);
  const spread = (list, index) => EDGE_PAD + (rows * ROW * (index + 0.5)) / list.length;
  agents.forEach((node, index) => Object.assign(node, { x: left, y: spread(agents, index) }));
  nodes.forEach((node, index) => Object.assign(node, { x: right, y: spread(nodes, index) }));

  const edges = [];
  const byAgent = new Map(agents.map((one) => [one.id, one]));
  for (const node of nodes) {
    for (const [agent, edge] of node.edges) edges.push({ key: `${agent}\u0000${node.key}`, from: byAgent.get(agent), to: node, ...edge });
  }
  reconcile(layers.edges, edges, (edge) => edge.key, () => s("path"), drawEdge);
  const all = [...agents, ...nodes];
  if (!all.some((node) => node.key === current)) current = all[0]?.key ?? null;
  reconcile(layers.nodes, all, (node) => node.key, makeNode, (element, node) => drawNode(element, node, left, width));
  light(all.some((node) => node.key === lit) ? lit : null);
  touchTable(found);
}

function helpText(hidden) {
  const more = [hidden.agents && plural(hidden.agents, "agent"), hidden.paths && plural(hidden.paths, "path")].filter(Boolean).join(" and ");
  const help = "Arrow keys move between agents and paths; Enter shows what belongs to one.";
  return more ? `${help} ${more} more: filter, or see the table.` : help;
}

function drawEdge(element, { from, to, how, count }) {
  const bend = (to.x - from.x) * 0.5;
  setAttribute(element, "d", `M${from.x} ${from.y} C${from.x + bend} ${from.y} ${to.x - bend} ${to.y} ${to.x} ${to.y}`);
  setAttribute(element, "class", `edge ${how} c${colour(from.id)}`);
  setAttribute(element, "stroke-width", how === "holds" ? 3.5 + Math.min(count - 1, 4) : 2);
  element.dataset.agent = from.key;
  element.dataset.path = to.key;
}

function makeNode(node) {
  const element = s(
    "g",
    { role: "button", onclick: () => choose(element.node), onfocus: () => focused(element.node), onblur: () => light(null), onpointerenter: () => light(element.node.key), onpointerleave: () => light(null) },
    s("rect", { class: "focus-box", rx: 8 }),
  );
  if (node.kind === "agent") element.append(s("circle", { class: "dot", r: 7 }), s("text", { class: "name", "text-anchor": "end" }));
  else element.append(s("circle", { class: "halo", r: 11 }), s("circle", { class: "spot", r: 5 }), s("text", { class: "name path" }), s("text", { class: "many", "text-anchor": "middle" }));
  return element;
}

function drawNode(element, node, left, width) {
  element.node = node;
  const agent = node.kind === "agent";
  const room = agent ? left - 20 : width - node.x - 24;
  const shared = !agent && node.edges.size > 1;
  setAttribute(element, "transform", `translate(${node.x} ${node.y})`);
  setAttribute(element, "class", agent ? `node agent c${colour(node.id)}` : `node path${shared || node.clash ? " shared" : ""}`);
  setAttribute(element, "tabindex", node.key === current ? 0 : -1);
  setAttribute(element, "aria-label", agent ? agentWords(node) : pathWords(node));
  const [box] = element.children;
  setAttribute(box, "x", agent ? -left + 4 : -15);
  setAttribute(box, "y", -15);
  setAttribute(box, "width", agent ? left + 8 : width - node.x + 12);
  setAttribute(box, "height", 30);
  const text = element.querySelector(".name");
  setAttribute(text, "x", agent ? -14 : 18);
  setAttribute(text, "dy", "0.35em");
  const label = fitted(node.name, node.kind, room - widthOf(many(node), node.kind)) + many(node);
  if (text.firstChild?.data !== label) text.replaceChildren(label, s("title", {}, node.name));
  if (!agent) {
    const mark = element.querySelector(".many");
    setAttribute(mark, "dy", "0.35em");
    setText(mark, node.clash ? "!" : shared ? node.edges.size : "");
  }
}

const many = (node) => (node.members?.size > 1 ? ` (${node.members.size})` : "");

function agentWords(node) {
  const parts = Object.keys(HOW).filter((how) => node[how] > 0).map((how) => `${HOW[how]} ${node[how]}`);
  return `${node.name}: ${parts.join(", ")}`;
}

function pathWords(node) {
  const who = [...node.edges].map(([agent, edge]) => `${clean(agent, 60)} ${HOW[edge.how]} it`).join(", ");
  const files = node.members.size > 1 ? `, ${node.members.size} paths` : "";
  return `${node.name}${files}: ${who}${node.clash ? "; changes here would not merge" : ""}`;
}

function touchTable(found) {
  if (!byId("picture-table").open) return;
  const sorted = [...found].sort((a, b) => resourceName(a.resource).localeCompare(resourceName(b.resource)) || a.agent.localeCompare(b.agent));
  const rows = sorted.slice(0, MAX_ROWS);
  if (sorted.length > MAX_ROWS) rows.push({ agent: REST, resource: ["file", REST], how: "works", more: sorted.length - MAX_ROWS });
  reconcile(
    byId("touches"),
    rows,
    (one) => `${one.agent}\u0000${resourceKey(one.resource)}`,
    () => h("tr", {}, h("th", { scope: "row" }), h("td"), h("td")),
    (row, one) => {
      setText(row.children[0], one.more ? `and ${one.more} more: filter to see them` : resourceName(one.resource));
      setText(row.children[1], one.more ? "" : clean(one.agent, 60));
      setText(row.children[2], one.more ? "" : HOW[one.how]);
    },
  );
}

// --- moving in it -----------------------------------------------------------------------------------------------------------

// What belongs to one node stands out; null: everything again.
function light(key) {
  lit = key;
  const linked = new Set([key]);
  for (const edge of layers.edges.children) {
    const on = key === null || edge.dataset.agent === key || edge.dataset.path === key;
    edge.classList.toggle("dim", !on);
    if (on && key !== null) linked.add(edge.dataset.agent).add(edge.dataset.path);
  }
  for (const node of layers.nodes.children) node.classList.toggle("dim", key !== null && !linked.has(node.node.key));
}

function focused(node) {
  current = node.key;
  for (const element of layers.nodes.children) setAttribute(element, "tabindex", element.node.key === current ? 0 : -1);
  light(node.key);
}

function choose(node) {
  chosen(node.kind === "agent" ? { agent: node.id } : node.members.size === 1 ? { resource: [...node.members.values()][0] } : { path: node.name.replace(/…$/, "") });
}

function moved(event) {
  const all = [...layers.nodes.children];
  const here = all.find((element) => element.node.key === current);
  if (!here || event.altKey || event.ctrlKey || event.metaKey) return;
  const column = all.filter((element) => element.node.kind === here.node.kind);
  const index = column.indexOf(here);
  let next = null;
  if (event.key === "ArrowDown") next = column[Math.min(index + 1, column.length - 1)];
  else if (event.key === "ArrowUp") next = column[Math.max(index - 1, 0)];
  else if (event.key === "Home") next = column[0];
  else if (event.key === "End") next = column.at(-1);
  else if (event.key === "ArrowRight" && here.node.kind === "agent") next = linkedTo(all, "agent", "path");
  else if (event.key === "ArrowLeft" && here.node.kind === "path") next = linkedTo(all, "path", "agent");
  else if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    choose(here.node);
    return;
  }
  if (next) {
    event.preventDefault();
    next.focus();
  }
}

function linkedTo(all, from, to) {
  const edge = [...layers.edges.children].find((one) => one.dataset[from] === current);
  return edge && all.find((element) => element.node.key === edge.dataset[to]);
}
