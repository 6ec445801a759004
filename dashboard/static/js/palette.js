// One colour and one line style for each variant. Okabe and Ito's colours keep apart for every kind of colour vision;
// the control is a neutral. Colours live in tokens.css, so that light and dark have their own.

const COLOURS = 8;
const DASHES = [[], [9, 4], [2, 4], [9, 4, 2, 4], [14, 5]];
const CONTROL_DASH = [5, 4];

/** Variant names, in order → name → {colour: a CSS variable, dash: canvas dash pattern}. */
export function styles(names, control) {
  const found = new Map();
  let place = 0;
  for (const name of names) {
    if (name === control) {
      found.set(name, { variable: "--v0", dash: CONTROL_DASH });
      continue;
    }
    found.set(name, {
      variable: `--v${1 + (place % (COLOURS - 1))}`,
      dash: DASHES[(place + Math.floor(place / (COLOURS - 1))) % DASHES.length],
    });
    place += 1;
  }
  return found;
}

const known = new Map(); // theme and variable → value: asking the style of the page makes it compute all of it

/** The value of a custom property in the present theme. */
export function cssValue(variable) {
  const key = `${document.documentElement.dataset.theme} ${variable}`;
  if (!known.has(key)) known.set(key, getComputedStyle(document.documentElement).getPropertyValue(variable).trim());
  return known.get(key);
}

/** `#rrggbb` with an opacity. */
export function faded(hex, alpha) {
  return `${hex}${Math.round(alpha * 255).toString(16).padStart(2, "0")}`;
}
