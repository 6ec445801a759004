// Pictures of what is shown: one chart, or all of them with the verdict above, drawn on a canvas and saved as PNG.
import { cssValue } from "../palette.js";

const SCALE = 2;
const EDGE = 24;
const LINE = 21;
const AROUND = 134; // title, legend and sentence of a chart
const LEAST_ASPECT = 3; // one chart alone does not fill the page

export function save(canvas, fileName) {
  canvas.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = fileName.replace(/[^\w.-]+/g, "-");
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }, "image/png");
}

/** {title, legend: [{name, style, value}], canvas, summary} → a canvas. */
export function chartPicture(chart) {
  const width = chart.canvas.width / devicePixelRatio;
  const height = chart.canvas.height / devicePixelRatio;
  const page = newPage(width + 2 * EDGE, height + 2 * EDGE + 106);
  drawChart(page, chart, EDGE, EDGE, width, height);
  return page.canvas;
}

/** Everything: heading, verdict, reasons, one line a variant, charts in two columns. */
export function wholePicture({ heading, sub, verdict, reasons, rows, charts }) {
  const width = 1200;
  const measure = newPage(width, 10);
  const wrapped = reasons.map((reason) => wrap(measure, reason, width - 2 * EDGE, 15));
  const bands = [];
  for (let i = 0; i < charts.length; i += 2) bands.push(sideBySide(charts.slice(i, i + 2), width - 3 * EDGE));
  const textHeight = 132 + wrapped.flat().length * LINE + wrapped.length * 4 + rows.length * LINE + 24;
  const chartsHeight = bands.reduce((sum, band) => sum + band.height + AROUND, 0);
  const page = newPage(width, EDGE + textHeight + chartsHeight + EDGE);
  let y = EDGE;
  text(page, heading, EDGE, y, 24, "--text", 650);
  text(page, sub, EDGE, (y += 34), 13, "--muted");
  text(page, verdict, EDGE, (y += 32), 20, "--text", 650);
  y += 32;
  wrapped.forEach((lines, i) => {
    for (const line of lines) {
      text(page, line, EDGE, y, 15, i ? "--muted" : "--text");
      y += LINE;
    }
    y += 4;
  });
  y += 8;
  for (const row of rows) {
    line(page, row.style, EDGE, y + 8);
    text(page, row.text, EDGE + 30, y, 14, "--text");
    y += LINE;
  }
  y += 24;
  for (const band of bands) {
    let x = EDGE;
    for (const { chart, width: wide } of band.charts) {
      drawChart(page, chart, x, y, wide, band.height);
      x += wide + EDGE;
    }
    y += band.height + AROUND;
  }
  return page.canvas;
}

/** Of one height, as wide together as there is room. */
function sideBySide(charts, room) {
  const aspects = charts.map((chart) => chart.canvas.width / chart.canvas.height);
  const height = room / Math.max(aspects.reduce((sum, one) => sum + one, 0), LEAST_ASPECT);
  return { height, charts: charts.map((chart, i) => ({ chart, width: height * aspects[i] })) };
}

function newPage(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.ceil(width * SCALE);
  canvas.height = Math.ceil(height * SCALE);
  const context = canvas.getContext("2d");
  context.scale(SCALE, SCALE);
  context.textBaseline = "top";
  context.fillStyle = cssValue("--surface");
  context.fillRect(0, 0, width, height);
  return context;
}

function drawChart(page, chart, x, y, width, height) {
  text(page, chart.title, x, y, 15, "--text", 650);
  let left = x;
  for (const one of chart.legend) {
    const label = `${one.name} ${one.value}`;
    page.font = font(13);
    const needed = 30 + page.measureText(label).width + 18;
    if (left + needed > x + width && left > x) break; // the sentence below names all of them
    line(page, one.style, left, y + 34);
    text(page, label, left + 28, y + 26, 13, "--text");
    left += needed;
  }
  page.drawImage(chart.canvas, x, y + 50, width, height);
  wrap(page, chart.summary, width, 12)
    .slice(0, 3)
    .forEach((part, i) => text(page, part, x, y + 56 + height + i * 16, 12, "--muted"));
}

const font = (size, weight = 400) => `${weight} ${size}px ${cssValue("--sans")}`;

function text(page, words, x, y, size, colour, weight = 400) {
  page.font = font(size, weight);
  page.fillStyle = cssValue(colour);
  page.fillText(words, x, y);
}

function line(page, style, x, y) {
  page.strokeStyle = cssValue(style.variable);
  page.lineWidth = 3;
  page.setLineDash((style.dash ?? []).map((part) => part * 0.75));
  page.beginPath();
  page.moveTo(x, y);
  page.lineTo(x + 22, y);
  page.stroke();
  page.setLineDash([]);
}

function wrap(page, words, width, size) {
  page.font = font(size);
  const lines = [];
  let current = "";
  for (const word of words.split(" ")) {
    const longer = current ? `${current} ${word}` : word;
    if (current && page.measureText(longer).width > width) {
      lines.push(current);
      current = word;
    } else {
      current = longer;
    }
  }
  return current ? [...lines, current] : lines;
}
