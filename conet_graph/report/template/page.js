"use strict";
// Tooltips: an element's <title> child or its title attribute, shown at once and in the page's own style.
const tip = document.getElementById("tip");
for (const title of document.querySelectorAll("svg title")) {
  const owner = title.parentElement;
  owner.setAttribute("data-tip", title.textContent);
  owner.setAttribute("aria-label", title.textContent);
  title.remove();
}
for (const owner of document.querySelectorAll("[title]")) {
  owner.setAttribute("data-tip", owner.getAttribute("title"));
  owner.removeAttribute("title");
}
function showTip(event) {
  const owner = event.target.closest("[data-tip]");
  tip.hidden = owner === null;
  if (owner === null) return;
  tip.textContent = owner.getAttribute("data-tip");
  const box = tip.getBoundingClientRect();
  const left = Math.min(event.clientX + 14, innerWidth - box.width - 8);
  const below = event.clientY + 16;
  const top = below + box.height > innerHeight - 8 ? event.clientY - box.height - 12 : below;
  tip.style.left = Math.max(8, left) + "px";
  tip.style.top = Math.max(8, top) + "px";
}

// Whatever belongs to the size under the pointer is lit, everywhere in the page.
const bySize = new Map();
for (const element of document.querySelectorAll("[data-size]")) {
  const size = element.dataset.size;
  if (!bySize.has(size)) bySize.set(size, []);
  bySize.get(size).push(element);
}
let lit = null;
function light(size) {
  if (size === lit) return;
  for (const element of bySize.get(lit) || []) element.classList.remove("lit");
  for (const element of bySize.get(size) || []) {
    element.classList.add("lit");
    if (element.classList.contains("curve")) element.parentNode.append(element);  // in front of the others
  }
  document.body.classList.toggle("lighting", size !== null);
  lit = size;
}
document.addEventListener("pointermove", (event) => {
  if (!(event.target instanceof Element)) return;
  showTip(event);
  const owner = event.target.closest("[data-size]");
  light(owner === null ? null : owner.dataset.size);
});
document.addEventListener("pointerleave", () => { tip.hidden = true; light(null); });
document.addEventListener("scroll", () => { tip.hidden = true; }, true);

// Zoom of the drawing: its width in steps, or fitted to the page.
for (const canvas of document.querySelectorAll(".canvas")) {
  const svg = canvas.querySelector("svg");
  const box = svg.viewBox.baseVal;
  let scale = 1;
  const zoom = (factor) => {
    const now = canvas.classList.contains("fit") ? svg.getBoundingClientRect().width / box.width : scale;
    scale = factor === 0 ? 1 : Math.min(4, Math.max(0.1, now * factor));
    canvas.classList.remove("fit");
    svg.setAttribute("width", box.width * scale);
    svg.setAttribute("height", box.height * scale);
  };
  const actions = {
    fit: () => { svg.setAttribute("width", box.width); svg.setAttribute("height", box.height); canvas.classList.add("fit"); },
    full: () => zoom(0),
    in: () => zoom(1.25),
    out: () => zoom(0.8),
  };
  for (const button of canvas.parentElement.querySelectorAll("button[data-zoom]")) {
    button.addEventListener("click", actions[button.dataset.zoom]);
  }
}
