// Pictures of what is shown: one chart, or all of them with the verdict above, drawn on a canvas and saved as PNG.
import { cssColour } from "../palette.js";

const SCALE = 2;
const EDGE = 24;
const LINE = 21;

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
  const page = newPage(width + 2 * EDGE, height + 2 * EDGE + 90);
  drawChart(page, chart, EDGE, EDGE, width, height);
  return page.canvas;
}

/** Everything: heading, verdict, reasons, one line a variant, charts in two columns. */
export function wholePicture({ heading, sub, verdict, reasons, rows, charts }) {
  const width = 1200;
  const column = (width - 3 * EDGE) / 2;
  const measure = newPage(width, 10);
  const wrapped = reasons.map((reason) => wrap(measure, reason, width - 2 * EDGE, 15));
  const size = (chart) => (column * chart.canvas.height) / chart.canvas.width;
  const bands = [];
  for (let i = 0; i < charts.length; i += 2) bands.push(charts.slice(i, i + 2));
  const textHeight = 132 + wrapped.flat().length * LINE + wrapped.length * 4 + rows.length * LINE + 24;
  const chartsHeight = bands.reduce((sum, band) => sum + Math.max(...band.map(size)) + 118, 0);
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
    band.forEach((chart, i) => drawChart(page, chart, EDGE + i * (column + EDGE), y, column, size(chart)));
    y += Math.max(...band.map(size)) + 118;
  }
  return page.canvas;
}

function newPage(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.ceil(width * SCALE);
  canvas.height = Math.ceil(height * SCALE);
  const context = canvas.getContext("2d");
  context.scale(SCALE, SCALE);
  context.textBaseline = "top";
  context.fillStyle = cssColour("--surface");
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
    .slice(0, 2)
    .forEach((part, i) => text(page, part, x, y + 56 + height + i * 16, 12, "--muted"));
}

const font = (size, weight = 400) => `${weight} ${size}px ${cssColour("--sans")}`;

function text(page, words, x, y, size, colour, weight = 400) {
  page.font = font(size, weight);
  page.fillStyle = cssColour(colour);
  page.fillText(words, x, y);
}

function line(page, style, x, y) {
  page.strokeStyle = cssColour(style.variable);
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
