// The page's life: a session, the stream of what happens, drawing, and what the person does.

import { byId, setAttribute, setText } from "/assets/dom.js";
import { askHolder, askRelease, inspect, markRead, say, showInspected, startDialogs, toast } from "/assets/dialogs.js";
import { clean, plural, sentence } from "/assets/format.js";
import { drawAgents, drawConflicts, drawEvents, drawFoot, drawLeases, drawMessages, drawQueue, drawTiles, drawTimes, startPanels } from "/assets/panels.js";
import { drawPicture, startPicture } from "/assets/picture.js";
import { enter, forget, hasKey, live, post, takeCode } from "/assets/session.js";
import { heard, unread, world } from "/assets/state.js";

const SILENCE_MS = 35_000; // the server says something every 15 s
const AGAIN_MS = 1_000;
const TELL_MS = 5_000; // between two sentences for screen readers
const QUIET = new Set(["lease-renewed", "sync-completed", "heartbeat-sent", "lease-queued"]);

// --- drawing: once for all that comes in the same moment --------------------------------------------------------------------

let drawing = false;

function draw() {
  if (drawing) return;
  drawing = true;
  setTimeout(() => {
    drawing = false;
    drawNow();
  }, 16);
}

function drawNow() {
  drawLink();
  if (world.state === null) return;
  const { state } = world;
  const news = unread().length;
  document.title = `${news > 0 ? `(${news}) ` : ""}${clean(state.clone, 60)} · coord`;
  setText(byId("clone"), clean(state.clone, 60));
  setText(byId("me"), clean(state.agent, 60));
  drawTiles();
  drawPicture();
  drawAgents();
  drawLeases();
  drawQueue();
  drawMessages();
  drawConflicts();
  drawEvents();
  drawFoot();
  if (byId("inspect").open) showInspected();
  byId("clear-filter").hidden = world.filter === "";
}

const LINK = { connecting: "connecting", live: "live", "no-daemon": "no daemon", lost: "not connected", elsewhere: "paused", "no-session": "not signed in" };

function drawLink() {
  const pill = byId("link");
  setAttribute(pill, "data-state", world.link);
  setText(byId("link-text"), LINK[world.link]);
  document.body.classList.toggle("stale", !["live", "connecting"].includes(world.link));
  const banner = byId("banner");
  const problems = world.link === "live" ? (world.state?.problems ?? []).map((one) => clean(one)).join(" · ") : "";
  const words = world.linkWords || problems;
  if (banner.textContent !== words) banner.textContent = words;
  banner.hidden = words === "";
}

function linkIs(link, words = "") {
  world.link = link;
  world.linkWords = words;
  draw();
}

// --- what the server tells --------------------------------------------------------------------------------------------------

let told = [];
let tellTimer = 0;

// Those who can't see the page change hear of it, but not of everything, and not at once.
function tell(text) {
  told.push(text);
  tellTimer ||= setTimeout(() => {
    tellTimer = 0;
    setText(byId("told"), told.length > 3 ? `${plural(told.length, "change")}; the last: ${told.at(-1)}` : told.join(". "));
    told = [];
  }, TELL_MS);
}

function take(document) {
  if (document.kind === "event") {
    if (heard(document.event) && !document.past && !QUIET.has(document.event.type)) tell(sentence(document.event));
  } else if (document.kind === "state") {
    if (document.daemon === false) {
      world.state = { ...(world.state ?? {}), daemon: false };
      if (world.link !== "no-daemon") tell("the daemon does not run");
      linkIs("no-daemon", `${clean(document.message, 200)}: ${clean(document.hint, 200)}. The page goes on by itself.`);
      return;
    }
    world.state = document;
    world.heardAt = performance.now();
    linkIs("live");
  } else if (document.kind === "closed") {
    world.link = "elsewhere";
  }
  draw();
}

async function stay() {
  let code = takeCode();
  for (;;) {
    try {
      if (!hasKey()) {
        code = (await entered(code)) ? null : await nextCode();
        continue;
      }
      await live(take, SILENCE_MS);
      if (world.link === "elsewhere") {
        linkIs("elsewhere", "This page is paused: it is open in several other tabs, or the browser was signed out. Press a key or click to go on here.");
        await new Promise((go) => ["keydown", "pointerdown"].forEach((name) => addEventListener(name, go, { once: true })));
        linkIs("connecting");
        continue;
      }
      linkIs("lost", "The connection to coord ui has ended. Trying again …");
    } catch (error) {
      if (error.status === 401) {
        code = (await entered(code)) ? null : await nextCode();
        continue;
      }
      linkIs("lost", error.status ? error.message : "coord ui does not answer. If it was ended, start it again; it shows a new link.");
    }
    await new Promise((go) => setTimeout(go, AGAIN_MS));
  }
}

// A session for a code. Only asked for when there is none: a link that is opened twice in one browser is no alarm.
async function entered(code) {
  if (code === null) {
    linkIs("no-session", "This browser has no session here. Open the link that coord ui shows; pressing Enter there makes a new one.");
    return false;
  }
  try {
    await enter(code);
    return true;
  } catch (error) {
    linkIs("no-session", `${clean(error.message)}: ${clean(error.hint)}.`);
    return false;
  }
}

const nextCode = () => new Promise((go) => addEventListener("hashchange", () => go(takeCode()), { once: true }));

// --- what the person does ---------------------------------------------------------------------------------------------------

function filterBy(text) {
  world.filter = text;
  if (byId("filter").value !== text) byId("filter").value = text;
  draw();
}

function startControls() {
  byId("filter").addEventListener("input", (event) => filterBy(event.target.value));
  byId("clear-filter").addEventListener("click", () => {
    filterBy("");
    byId("filter").focus();
  });
  byId("look-up").addEventListener("click", () => inspect(null));
  byId("say").addEventListener("click", () => say());
  byId("read-all").addEventListener("click", () => markRead(unread()));
  byId("event-kind").addEventListener("change", (event) => {
    world.eventKind = event.target.value;
    draw();
  });
  byId("pause").addEventListener("click", (event) => {
    world.paused = world.paused === null ? [...world.events] : null;
    setAttribute(event.currentTarget, "aria-pressed", world.paused !== null);
    setText(event.currentTarget, world.paused === null ? "Pause" : "Go on");
    draw();
  });
  byId("picture-table").addEventListener("toggle", draw);
  byId("leave").addEventListener("click", async () => {
    try {
      await post("leave", {});
      forget();
    } catch (error) {
      toast(error.message, true);
    }
  });
  addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select, dialog");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      byId("filter").focus();
    } else if (event.key === "Escape" && event.target === byId("filter")) {
      filterBy("");
    }
  });
}

const THEMES = { auto: ["◐ auto", "Colours: as the system"], light: ["☀ light", "Colours: light"], dark: ["☾ dark", "Colours: dark"] };

function startTheme() {
  const names = Object.keys(THEMES);
  const set = (name) => {
    document.documentElement.dataset.theme = name;
    localStorage.setItem("coord-theme", name);
    setText(byId("theme"), THEMES[name][0]);
    setAttribute(byId("theme"), "aria-label", THEMES[name][1]);
  };
  const kept = localStorage.getItem("coord-theme");
  set(names.includes(kept) ? kept : "auto");
  byId("theme").addEventListener("click", () => set(names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length]));
}

startTheme();
startDialogs();
startControls();
startPanels({
  filter: (agent) => filterBy(world.filter === agent ? "" : agent),
  inspect,
  release: askRelease,
  ask: askHolder,
  answer: (message) => say({ to: message.agentId, replyTo: message.messageId, resource: message.resource, about: `“${clean(message.text, 200)}”` }),
  read: (message) => markRead([message]),
});
startPicture(({ agent, resource, path }) => {
  if (resource) inspect(resource);
  else filterBy(world.filter === (agent ?? path) ? "" : (agent ?? path));
});
setInterval(() => {
  if (!document.hidden && world.link === "live") drawTimes();
}, 1000);
setInterval(draw, 15_000); // "3 m ago" goes on without anything happening
stay();
