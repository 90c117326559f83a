// What the page knows: the latest state and the events, what was filtered, and what follows from both.

import { clean, conflictParts, resourceKey, resourceName, sentence } from "/assets/format.js";

export const MAX_EVENTS = 500;
const MAX_CONFLICTS = 50;
const COLOURS = 8;
const HOUR = 3_600_000;

export const world = {
  state: null, // the server's last one
  heardAt: 0, // performance.now() of it: times left are counted from there
  link: "connecting", // connecting, live, no-daemon, lost, elsewhere, no-session
  linkWords: "",
  events: [], // the latest first, each with a number of its own
  conflicts: [], // events; what is foretold is in the state
  filter: "",
  eventKind: "",
  paused: null, // the events as they were when they were paused
};
let lastNumber = 0;

// A daemon that comes back tells its last events again.
export function heard(event) {
  const same = (one) => one.timestamp === event.timestamp && one.type === event.type && one.agentId === event.agentId;
  if (world.events.some((one) => same(one) && sentence(one) === sentence(event))) return false;
  event.number = ++lastNumber;
  world.events.unshift(event);
  world.events.length = Math.min(world.events.length, MAX_EVENTS);
  if (event.type === "conflicts-detected" && !Array.isArray(event.data?.foretold)) {
    world.conflicts.unshift(event);
    world.conflicts.length = Math.min(world.conflicts.length, MAX_CONFLICTS);
  }
  return true;
}

export const remaining = (lease) => lease.remainingMs - (performance.now() - world.heardAt);

export function isMine(agent) {
  return (world.state?.agents ?? []).some((one) => one.agentId === agent);
}

export function unread() {
  const { messages = [], agent } = world.state ?? {};
  return messages.filter(
    (one) => !(one.mine && one.agentId === agent) && !one.acknowledgedBy.includes(agent) && (one.to.length === 0 || one.to.includes(agent)),
  );
}

// What would not merge as things are now.
export const foretold = () => (world.state?.foretold ?? []).filter((one) => fits(one.path, ...one.agents, ...one.theirAgents));

export const recentConflicts = (now = Date.now()) => world.conflicts.filter((one) => now - Date.parse(one.timestamp) < HOUR);

// Every agent keeps its colour as long as it is there, whoever comes and goes.
const taken = new Map();
export function colour(agent) {
  if (!taken.has(agent)) {
    let hash = 0;
    for (const char of agent) hash = (hash * 31 + char.codePointAt(0)) >>> 0;
    const used = new Set(taken.values());
    let chosen = hash % COLOURS;
    for (let tries = 0; used.has(chosen) && tries < COLOURS; tries++) chosen = (chosen + 1) % COLOURS;
    taken.set(agent, chosen);
  }
  return taken.get(agent);
}

// --- the filter -------------------------------------------------------------------------------------------------------------

const words = () => world.filter.toLowerCase().split(/\s+/).filter(Boolean);

// Each word has to be in one of the texts.
export function fits(...texts) {
  const wanted = words();
  if (wanted.length === 0) return true;
  const text = texts.map((one) => clean(one, 5000).toLowerCase()).join("\n");
  return wanted.every((word) => text.includes(word));
}

export const leaseFits = (lease) => fits(lease.agentId, lease.note, ...lease.resources.map(resourceName));
export const workFits = (work) => fits(work.agentId, work.status, ...work.issues, ...work.specs, ...work.files);
export const messageFits = (one) => fits(one.agentId, one.text, ...one.to, one.resource ? resourceName(one.resource) : "");
export const eventFits = (event) =>
  fits(event.agentId, sentence(event)) && (event.type.startsWith(world.eventKind) || (world.eventKind === "updated" && event.type.endsWith("updated")));

// --- who touches what -------------------------------------------------------------------------------------------------------

const STRENGTH = { holds: 4, waits: 3, changes: 2, works: 1 };

// One entry for each agent and resource: { agent, resource, how }. Who holds a file and works on it, holds it.
export function touches() {
  const { leases = [], work = [], changes = [] } = world.state ?? {};
  const found = new Map();
  const add = (agent, resource, how) => {
    const key = `${agent}\u0000${resourceKey(resource)}`;
    const before = found.get(key);
    if (before === undefined || STRENGTH[before.how] < STRENGTH[how]) found.set(key, { agent, resource, how });
  };
  for (const lease of leases) {
    for (const resource of lease.resources) add(lease.agentId, resource, lease.state === "granted" ? "holds" : "waits");
  }
  for (const one of work) {
    for (const file of one.files) add(one.agentId, ["file", file], "works");
    for (const spec of one.specs) add(one.agentId, ["spec", spec], "works");
    for (const issue of one.issues) add(one.agentId, ["issue", issue], "works");
  }
  for (const one of changes) for (const agent of one.agents) for (const file of one.files) add(agent, ["file", file], "changes");
  return [...found.values()].filter((one) => fits(one.agent, resourceName(one.resource)));
}

// Everyone who is there or does something, with what they do.
export function everyone() {
  const { leases = [], work = [], peers = [], agents: own = [], agent: me } = world.state ?? {};
  const found = new Map();
  const of = (id) => {
    if (!found.has(id)) found.set(id, { id, me: id === me, own: false, peer: null, work: [], held: 0, waiting: 0 });
    return found.get(id);
  };
  for (const one of own) of(one.agentId).own = true;
  for (const peer of peers) of(peer.agentId).peer = peer;
  for (const one of work) of(one.agentId).work.push(one);
  for (const lease of leases) of(lease.agentId)[lease.state === "granted" ? "held" : "waiting"] += 1;
  return [...found.values()].sort((a, b) => b.me - a.me || b.own - a.own || a.id.localeCompare(b.id));
}

// Waiting leases by what they wait for: [{ resource, waiting: [lease], holders: [agent] }], the next one first.
export function queues() {
  const { leases = [] } = world.state ?? {};
  const found = new Map();
  for (const lease of leases.filter((one) => one.state !== "granted" && leaseFits(one))) {
    for (const resource of lease.resources) {
      const key = resourceKey(resource);
      if (!found.has(key)) found.set(key, { key, resource, waiting: [], holders: [] });
      found.get(key).waiting.push(lease);
    }
  }
  for (const queue of found.values()) {
    queue.waiting.sort((a, b) => (a.position ?? 0) - (b.position ?? 0));
    queue.holders = holdersOf(queue.resource).map((lease) => lease.agentId);
  }
  return [...found.values()].sort((a, b) => resourceName(a.resource).localeCompare(resourceName(b.resource)));
}

// By the names alone: equal, or one a folder that the other is in. Patterns are the daemon's business.
export function overlaps([type, path], [otherType, other]) {
  const inside = (inner, outer) => outer.endsWith("/") && inner.startsWith(outer);
  return type === otherType && (path === other || inside(path, other) || inside(other, path));
}

export function holdersOf(resource) {
  return (world.state?.leases ?? []).filter((one) => one.state === "granted" && one.resources.some((held) => overlaps(held, resource)));
}

export function onResource(resource) {
  const { leases = [], work = [] } = world.state ?? {};
  return {
    leases: leases.filter((one) => one.resources.some((held) => overlaps(held, resource))),
    work: work.filter((one) =>
      [...one.files.map((f) => ["file", f]), ...one.specs.map((f) => ["spec", f]), ...one.issues.map((f) => ["issue", f])].some((r) => overlaps(r, resource)),
    ),
    changes: (world.state?.changes ?? []).filter((one) => one.files.some((file) => overlaps(["file", file], resource))),
    foretold: (world.state?.foretold ?? []).filter((one) => overlaps(["file", one.path], resource)),
    conflicts: recentConflicts().filter((event) => conflictParts(event).some((part) => overlaps(part.resource, resource))),
  };
}
