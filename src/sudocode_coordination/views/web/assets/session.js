// How the page speaks to its server. The cookie is the browser's, the key is kept for this origin alone: the server wants both.

const KEY = "coord-key";
const ENTER = "/api/enter";

export class Refused extends Error {
  constructor(status, { code = "failed", message = `the server answered ${status}`, hint = "" } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.hint = hint;
  }
}

export const hasKey = () => localStorage.getItem(KEY) !== null;
const headers = () => ({ "content-type": "application/json", "x-coord-key": localStorage.getItem(KEY) ?? "" });

async function refusal(response) {
  try {
    return new Refused(response.status, (await response.json()).error);
  } catch {
    return new Refused(response.status);
  }
}

export async function post(name, body) {
  let response;
  try {
    response = await fetch(`/api/${name}`, { method: "POST", headers: headers(), body: JSON.stringify(body) });
  } catch {
    throw new Refused(0, { code: "gone", message: "coord ui does not answer", hint: "start it again" });
  }
  if (!response.ok) throw await refusal(response);
  return response.status === 204 ? null : response.json();
}

// The code stands behind the # of the link. It is good for one use, so it leaves the address bar and the history first.
export function takeCode() {
  const code = location.hash.slice(1);
  if (code) history.replaceState(null, "", location.pathname);
  return /^[\w-]{40,60}$/.test(code) ? code : null;
}

export async function enter(code) {
  const response = await fetch(ENTER, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ code }) });
  if (!response.ok) throw await refusal(response);
  localStorage.setItem(KEY, (await response.json()).key);
}

export function forget() {
  localStorage.removeItem(KEY);
}

// What happens, document by document, until the server ends or nothing was heard for `silenceMs`.
export async function live(heard, silenceMs) {
  const stop = new AbortController();
  let timer = setTimeout(() => stop.abort(), silenceMs);
  try {
    const response = await fetch("/api/live", { headers: headers(), signal: stop.signal });
    if (!response.ok) throw await refusal(response);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(() => stop.abort(), silenceMs);
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line) heard(JSON.parse(line));
    }
  } finally {
    clearTimeout(timer);
    stop.abort();
  }
}
