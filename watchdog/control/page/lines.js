/* A row's JSON as lines, and which of them a write changed. */

const LONGEST_LINE = 2_000;
const MOST_LINES = 600;

/** JSON as lines of text, keys in order so that two rows compare; what is too long to show is cut, and says so. */
export function written(value) {
  const lines = (typeof value === "string" ? value : JSON.stringify(sorted(value), null, 2)).split("\n");
  const shown = lines.slice(0, MOST_LINES).map((line) => line.length <= LONGEST_LINE ? line
    : `${line.slice(0, LONGEST_LINE)}… (${line.length - LONGEST_LINE} more characters)`);
  return lines.length <= MOST_LINES ? shown : [...shown, `… (${lines.length - MOST_LINES} more lines)`];
}

function sorted(value) {
  if (Array.isArray(value)) return value.map(sorted);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.keys(value).sort().map((key) => [key, sorted(value[key])]));
}

const same = (one, other) => one.replace(/,$/, "") === other.replace(/,$/, "");

/** Mark the lines that only one side has, by their longest common subsequence. */
export function marked(before, after) {
  const common = lengths(before, after);
  const sides = { before: [], after: [] };
  let at = 0;
  let to = 0;
  while (at < before.length || to < after.length) {
    if (at < before.length && to < after.length && same(before[at], after[to])) {
      sides.before.push({ text: before[at++], changed: false });
      sides.after.push({ text: after[to++], changed: false });
    } else if (to === after.length || (at < before.length && common[at + 1][to] >= common[at][to + 1])) {
      sides.before.push({ text: before[at++], changed: true });
    } else {
      sides.after.push({ text: after[to++], changed: true });
    }
  }
  return sides;
}

function lengths(before, after) {
  const table = Array.from({ length: before.length + 1 }, () => new Uint16Array(after.length + 1));
  for (let at = before.length - 1; at >= 0; at -= 1) {
    for (let to = after.length - 1; to >= 0; to -= 1) {
      table[at][to] = same(before[at], after[to]) ? table[at + 1][to + 1] + 1 : Math.max(table[at + 1][to], table[at][to + 1]);
    }
  }
  return table;
}
