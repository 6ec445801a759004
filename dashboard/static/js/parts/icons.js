// Icons of one line weight. Each stands beside a word, so none of them is read aloud.
import { html } from "../dom.js";

const PATHS = {
  ok: "M5 12.5l4.5 4.5L19 7.5",
  bad: "M7 7l10 10M17 7L7 17",
  warn: "M12 4.5L21 19.5H3L12 4.5zM12 10.5v4M12 17v.2",
  open: "M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16zM12 8v4l2.5 2",
  unknown: "M9.5 9.5a2.5 2.5 0 1 1 3.6 2.2c-.8.4-1.1 1-1.1 1.8M12 17v.2",
  pause: "M9 6v12M15 6v12",
  stop: "M7 7h10v10H7z",
  play: "M8 5.5l10 6.5-10 6.5z",
  ship: "M12 20V5M6 11l6-6 6 6",
  back: "M9 8L5 12l4 4M5 12h9a5 5 0 0 1 0 10h-2",
  draft: "M5 19l1-4L16 5l3 3L9 18l-4 1z",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2.5v2M12 19.5v2M2.5 12h2M19.5 12h2M5.3 5.3l1.4 1.4M17.3 17.3l1.4 1.4M5.3 18.7l1.4-1.4M17.3 6.7l1.4-1.4",
  moon: "M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5z",
  download: "M12 4v11M7 10.5l5 5 5-5M5 20h14",
  close: "M6 6l12 12M18 6L6 18",
  link: "M10 14a4 4 0 0 0 6 .4l3-3a4 4 0 0 0-5.7-5.7l-1 1M14 10a4 4 0 0 0-6-.4l-3 3a4 4 0 0 0 5.7 5.7l1-1",
  offline: "M4 4l16 16M8.5 13.5a5 5 0 0 1 3-1.4M5 10a10 10 0 0 1 3.4-2.2M12 6.900a10 10 0 0 1 7 3.100M12 18v.2",
};

export function Icon({ name, size = 16 }) {
  return html`<svg class="icon" width=${size} height=${size} viewBox="0 0 24 24" aria-hidden="true" focusable="false">
    <path d=${PATHS[name] ?? PATHS.unknown} fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" stroke-linejoin="round" />
  </svg>`;
}

const VERDICTS = {
  ship: ["ok", "ship"],
  stop: ["warn", "stop"],
  rollback: ["bad", "back"],
  invalid: ["bad", "bad"],
  continue: ["calm", "play"],
  "insufficient-data": ["calm", "open"],
  "no-traffic": ["calm", "pause"],
};
const STATUSES = {
  running: ["ok", "play"],
  draft: ["calm", "draft"],
  paused: ["warn", "pause"],
  stopped: ["calm", "stop"],
  shipped: ["ok", "ship"],
};

const WORDS = { "insufficient-data": "too early", "no-traffic": "no traffic", "rolled-back": "rolled back" };
const CANARY = {
  promoted: ["ok", "ok"],
  "rolled-back": ["bad", "back"],
  held: ["warn", "pause"],
  paused: ["warn", "pause"],
  running: ["calm", "play"],
  "insufficient-data": ["calm", "open"],
  "no-traffic": ["calm", "pause"],
};

function Badge({ look, word }) {
  const [tone, icon] = look ?? ["calm", "unknown"];
  return html`<span class=${`badge ${tone}`}><${Icon} name=${icon} size=${13} />${WORDS[word] ?? word}</span>`;
}

export const VerdictBadge = ({ verdict }) => html`<${Badge} look=${VERDICTS[verdict]} word=${verdict} />`;
export const StatusBadge = ({ status }) => html`<${Badge} look=${STATUSES[status]} word=${status} />`;
export const CanaryBadge = ({ state }) => html`<${Badge} look=${CANARY[state]} word=${state} />`;
export const verdictLook = (verdict) => VERDICTS[verdict] ?? ["calm", "unknown"];

/** A light: icon and word, in a colour that only helps. */
export function Light({ tone, children }) {
  const icon = { ok: "ok", warn: "warn", bad: "bad", calm: "open" }[tone];
  return html`<span class=${`light ${tone}`}><${Icon} name=${icon} size=${14} />${children}</span>`;
}

/** The line of a variant, as in the charts. */
export function Swatch({ style }) {
  const dash = style?.dash?.length ? style.dash.map((d) => d * 0.75).join(" ") : undefined;
  return html`<svg class="swatch" width="20" height="8" viewBox="0 0 20 8" aria-hidden="true" focusable="false">
    <line x1="1" y1="4" x2="19" y2="4" stroke=${`var(${style?.variable ?? "--v0"})`} stroke-width="3" stroke-dasharray=${dash} />
  </svg>`;
}
