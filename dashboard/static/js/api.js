// What the server is asked. Errors carry its one sentence and the status.

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function get(path, signal) {
  let answer;
  try {
    answer = await fetch(path, { signal, headers: { accept: "application/json" } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The dashboard's server does not answer.");
  }
  const body = await answer.json().catch(() => null);
  if (!answer.ok) throw new ApiError(answer.status, body?.error ?? `The server answered with status ${answer.status}.`);
  if (body === null) throw new ApiError(answer.status, "The server's answer is no JSON.");
  return body;
}

const of = (name) => `/api/experiments/${encodeURIComponent(name)}`;

export const overview = (signal) => get("/api/experiments", signal);
export const models = () => get("/api/models");
export const detail = (name, signal) => get(of(name), signal);
export const decision = (name, version, signal) => get(`${of(name)}/decisions/${version}`, signal);
export const explanation = (name, version, signal) => get(`${of(name)}/decisions/${version}/explain`, signal);
export const decisions = (name, before, signal) =>
  get(`${of(name)}/decisions?limit=50${before === null ? "" : `&before=${before}`}`, signal);
export const exportAddress = (name, kind) => `${of(name)}/export.${kind}`;
export const streamAddress = (name) => `/api/stream${name === null ? "" : `?experiment=${encodeURIComponent(name)}`}`;
