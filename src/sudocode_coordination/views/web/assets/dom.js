// Elements from data. Text becomes text nodes and nothing else: names, notes and messages come from other people's machines.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

// h("li", { class: "x", title: "…", onclick: f }, "text", element, null)
export function h(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

export function s(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Only what differs is touched: the focus, a selection and a screen reader's place survive a new state.
export function setText(element, text) {
  const wanted = String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
}

export function setAttribute(element, name, value) {
  if (value === null || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, String(value));
}

// The children of `parent` become one element for each item, in order. `make(item)` builds one, `update(element, item)` brings an
// element up to date; elements whose key stays are kept, and moved only if the order has changed. The focus stays where it is; if what
// had it is gone, it goes to the section's heading, not to the top of the page.
export function reconcile(parent, items, key, make, update = () => {}) {
  const focus = parent.contains(document.activeElement) ? document.activeElement : null;
  const wanted = new Map();
  for (const item of items) if (!wanted.has(String(key(item)))) wanted.set(String(key(item)), item);
  const known = new Map();
  for (const child of [...parent.children]) {
    if (wanted.has(child.dataset.key)) known.set(child.dataset.key, child);
    else child.remove();
  }
  let place = parent.firstElementChild;
  for (const [name, item] of wanted) {
    let element = known.get(name);
    if (element === undefined) {
      element = make(item);
      element.dataset.key = name;
    }
    update(element, item);
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
  if (focus !== null && focus !== document.activeElement) refocus(focus, parent);
}

function refocus(focus, parent) {
  const heading = parent.closest("section, dialog")?.querySelector("h2");
  if (focus.isConnected) focus.focus({ preventScroll: true });
  else if (heading) {
    heading.tabIndex = -1;
    heading.focus({ preventScroll: true });
  }
}
