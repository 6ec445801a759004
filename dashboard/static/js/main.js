// The page: one store, drawn at most once an animation frame.
import { App } from "./app.js";
import { html, render } from "./dom.js";
import { Store } from "./store.js";
import * as theme from "./theme.js";

theme.apply();

const root = document.getElementById("app");
let asked = false;

function draw() {
  asked = false;
  document.title = titleOf(store);
  render(html`<${App} store=${store} theme=${theme.current()} onTheme=${switchTheme} />`, root);
}

function titleOf({ name, shown }) {
  if (name === null) return "Sluice";
  return shown ? `${name}: ${shown.verdict} · Sluice` : `${name} · Sluice`;
}

function changed() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(draw);
}

function switchTheme() {
  theme.toggle();
  changed();
}

const store = new Store(changed);
theme.onChange(changed);
setInterval(changed, 1000); // "40 s ago" grows
document.querySelector("[data-skip]").addEventListener("click", (event) => {
  event.preventDefault(); // the address belongs to the experiments
  document.getElementById("main")?.focus();
});
root.replaceChildren();
store.start();
changed();
