// Templates without a build step. Text is always set as text: nothing here parses HTML. Libraries: preact, htm.
import htm from "../vendor/htm/htm.module.js";
import { h } from "../vendor/preact/preact.module.js";

export { Component, render } from "../vendor/preact/preact.module.js";
export const html = htm.bind(h);
