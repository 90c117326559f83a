// Values as people say them.

// What could turn the reading direction or hide: shown as a mark, as the command line does.
const STEERING = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\ud800-\udfff]/gu;
const MAX_SHOWN = 300;

export function clean(text, limit = MAX_SHOWN) {
  const shown = String(text ?? "").replace(/[\t\n\r]+/g, " ").replace(STEERING, "\ufffd");
  return shown.length <= limit ? shown : shown.slice(0, limit - 1) + "…";
}

export function duration(ms) {
  if (!(ms >= 0)) return "0s";
  const seconds = Math.floor(ms / 1000);
  if (seconds < 60) return `${seconds}s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes}m${String(seconds % 60).padStart(2, "0")}s`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return `${hours}h${String(minutes % 60).padStart(2, "0")}m`;
  return `${Math.floor(hours / 24)}d${hours % 24}h`;
}

// To the minute is close enough for what is over.
const about = (ms) => (ms < 60_000 || ms >= 3_600_000 ? duration(ms) : `${Math.floor(ms / 60_000)} min`);

export function ago(iso, now = Date.now()) {
  const at = Date.parse(iso ?? "");
  if (Number.isNaN(at)) return "";
  const passed = now - at;
  if (Math.abs(passed) < 1500) return "now";
  return passed < 0 ? `in ${about(-passed)}` : `${about(passed)} ago`;
}

export function clock(iso) {
  const at = new Date(iso);
  return Number.isNaN(at.getTime()) ? clean(iso, 30) : at.toLocaleTimeString([], { hour12: false });
}

export function moment(iso) {
  const at = new Date(iso);
  if (Number.isNaN(at.getTime())) return clean(iso, 30);
  return at.toLocaleString([], { dateStyle: "short", timeStyle: "medium", hour12: false });
}

// A resource is [type, path].
export const resourceName = ([type, path]) => clean(type === "file" ? path : `${type}:${path}`);
export const resourceKey = ([type, path]) => `${type}\u0000${path}`;

export function resourceNames(resources, shown = 3) {
  const names = resources.slice(0, shown).map(resourceName).join(", ");
  return resources.length > shown ? `${names} +${resources.length - shown}` : names;
}

export function parseResource(text) {
  const found = /^(file|issue|spec|component):(.+)$/.exec(text.trim());
  return found ? [found[1], found[2]] : ["file", text.trim()];
}

export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;

const ENDS = {
  released: "released",
  expired: "ran out",
  preempted: "a higher priority took it",
  "lost-conflict": "lost to another side of a broken network",
  lapsed: "its holder vanished",
};
export const ending = (reason) => ENDS[reason] ?? clean(reason || "ended", 60);

// One event as a sentence.
export function sentence(event) {
  const data = event.data ?? {};
  const who = clean(event.agentId, 60);
  const what = data.lease ? resourceNames(data.lease.resources ?? []) : "";
  const on = data.work ? workNames(data.work) : "";
  const by = data.holder ? ` (${clean(data.holder, 60)})` : "";
  switch (event.type) {
    case "lease-acquired": return `${who} leased ${what}`;
    case "lease-denied": return `${who} did not get ${what || "a lease"}${by}`;
    case "lease-renewed": return `${who} renewed ${what}`;
    case "lease-released": return `${who} released ${what}`;
    case "lease-expired": return `${who}'s lease on ${what} ran out`;
    case "lease-lost": return `${who} lost ${what}${by}${data.reason ? `: ${ending(data.reason)}` : ""}`;
    case "lease-queued": return `${who} waits for ${what}`;
    case "work-started": return `${who} works on ${on || clean(data.work?.status) || "something"}`;
    case "work-completed": return `${who} finished work`;
    case "peer-discovered": return `clone of ${agents(data) || who} was found`;
    case "peer-connected": return `clone of ${agents(data) || who} connected`;
    case "peer-disconnected": return `clone of ${agents(data) || who} disconnected${data.reason ? `: ${clean(data.reason, 120)}` : ""}`;
    case "peer-rotated": return `clone of ${agents(data) || who} has a new key`;
    case "message-received": return `${clean(data.message?.agentId, 60)} to ${who}: ${clean(data.message?.text, 160)}`;
    case "message-acknowledged": return `${clean(data.by, 60)} has read a message of ${who}`;
    case "issue-updated": return `${who} updated issue ${clean(data.issueId, 80)}`;
    case "spec-updated": return `${who} updated spec ${clean(data.specPath, 120)}`;
    case "conflicts-cleared": return `no conflict any more of ${who}: ${foretold(data).map((one) => clean(one.path)).join(", ")}`;
    case "conflicts-detected": return `conflict of ${who}: ${conflictParts(event).map((part) => part.text).join("; ")}`;
    case "sync-completed": return `synchronised with a clone: ${plural(Number(data.entries) || 0, "entry", "entries")}`;
    default: return `${clean(event.type, 60)}: ${who}`;
  }
}

const agents = (data) => (Array.isArray(data.agentIds) ? data.agentIds.map((id) => clean(id, 60)).join(", ") : "");

export function workNames(work) {
  const names = [...(work.issues ?? []), ...(work.specs ?? []), ...(work.files ?? [])].map((name) => clean(name, 120));
  return names.length > 3 ? `${names.slice(0, 3).join(", ")} +${names.length - 3}` : names.join(", ");
}

const foretold = (data) => (Array.isArray(data.foretold) ? data.foretold : []).filter((one) => one && typeof one === "object");

// What `git merge` would stop at: where, with whom, and in which lines.
export function foretoldWords(one) {
  const others = (one.theirAgents ?? []).map((id) => clean(id, 60)).join(", ") || "another clone";
  const places = [lineNames(one.lines, "here"), lineNames(one.theirLines, "there")].filter(Boolean).join(", ");
  const more = [clean(one.kind, 80), one.certain === false && "perhaps", one.theirBranch && `on ${clean(one.theirBranch, 80)}`].filter(Boolean);
  return `would not merge with the changes of ${others}${places && ` (${places})`}: ${more.join(", ")}`;
}

// What a conflict is about: each part names a resource, who else, and where in it if that is known.
export function conflictParts(event) {
  const data = event.data ?? {};
  if (Array.isArray(data.foretold)) {
    return foretold(data).map((one) => ({ resource: ["file", String(one.path)], text: `${clean(one.path)} ${foretoldWords(one)}` }));
  }
  if (Array.isArray(data.conflicts)) {
    return data.conflicts.filter((one) => one && typeof one === "object").map((one) => {
      const resource = Array.isArray(one.resource) ? one.resource : ["file", "?"];
      const how = { lease: "holds it", waiting: "waits for it", work: "works on it" }[one.kind] ?? "changes it too";
      return { resource, text: `${resourceName(resource)}: ${clean(one.agentId, 60)} ${how}` };
    });
  }
  const resources = data.lease?.resources ?? [];
  const why = data.overlap ? "was held twice, by sides that could not reach each other" : `is wanted by ${clean(data.holder || "another", 60)}`;
  return resources.slice(0, 3).map((resource) => ({ resource, text: `${resourceName(resource)} ${why}` }));
}

function lineNames(lines, side) {
  if (!Array.isArray(lines) || lines.length === 0) return "";
  const spans = lines.slice(0, 4).map(([first, last]) => (last > first ? `${first}–${last}` : `${first}`));
  const one = spans.length === 1 && !spans[0].includes("–");
  return `${one ? "line" : "lines"} ${spans.join(", ")}${lines.length > 4 ? ", …" : ""} ${side}`;
}
