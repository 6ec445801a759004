// The address carries what is looked at: #/EXPERIMENT or #/EXPERIMENT/VERSION.

export function parse(hash) {
  const [, name, version, ...more] = hash.replace(/^#/, "").split("/");
  if (!name || more.length) return { name: null, version: null };
  try {
    const number = /^[1-9]\d{0,15}$/.test(version ?? "") ? Number(version) : null;
    return { name: decodeURIComponent(name), version: number };
  } catch {
    return { name: null, version: null };
  }
}

export function address(name, version = null) {
  if (name === null) return "#/";
  return `#/${encodeURIComponent(name)}${version === null ? "" : `/${version}`}`;
}
