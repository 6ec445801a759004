// Light and dark: as the system says, until somebody chooses.

const KEY = "sluice-theme";
const system = matchMedia("(prefers-color-scheme: dark)");

function chosen() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null; // storage may be forbidden
  }
}

export function current() {
  return chosen() ?? (system.matches ? "dark" : "light");
}

export function apply() {
  document.documentElement.dataset.theme = current();
}

export function toggle() {
  const next = current() === "dark" ? "light" : "dark";
  try {
    // Back to what the system says is no choice any more.
    if (next === (system.matches ? "dark" : "light")) localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, next);
  } catch {
    // Then it holds until the page is left.
  }
  document.documentElement.dataset.theme = next;
}

export function onChange(listener) {
  system.addEventListener("change", () => {
    apply();
    listener();
  });
}
