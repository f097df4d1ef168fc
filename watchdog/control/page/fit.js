/* Words as people may see them: `watchdog/shown.py` for the page, and the same in every case. */

const ALWAYS = "\\x00-\\x1f\\x7f-\\x9f\\xad\\u034f\\u061c\\u115f\\u1160\\u17b4\\u17b5\\u180e\\u200b\\u200e\\u200f" +
  "\\u2028-\\u202e\\u2060-\\u206f\\u3164\\ufeff\\uffa0\\ufff0-\\ufffb\\ufffe\\uffff\\ud800-\\udfff" +
  "\\u{e0000}-\\u{e00ff}\\u{e01f0}-\\u{e0fff}";
const SOMETIMES = "\\u180b-\\u180d\\u180f\\u200c\\u200d\\ufe00-\\ufe0f\\u{e0100}-\\u{e01ef}";
const UNSEEN = new RegExp(`[${ALWAYS}${SOMETIMES}]`, "u");
const NEVER = new RegExp(`[${ALWAYS}]`, "u");
const COMPLEX = /[\u0600-\u109f\u1780-\u18af\u1a20-\u1aaf\ua800-\uabff\ufb50-\ufdff\ufe70-\ufefc]/u;
const MONGOLIAN = /[\u1800-\u18af]/u;
const IDEOGRAPH = /[\u3400-\u9fff\uf900-\ufaff\u{20000}-\u{3ffff}]/u;
const SIGNS = /[\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\u{110bd}\u{110cd}]/u;
const WORD = new RegExp(
  "[^\\s\\u0e00-\\u0eff\\u1000-\\u109f\\u1780-\\u17ff\\u2e80-\\ud7ff\\uf900-\\ufaff\\uff00-\\uffef" +
  "\\u{20000}-\\u{3ffff}]{257,}", "gu");
/* The letters behind which a sign that kills a vowel may want a joiner; JavaScript does not know the class. */
const VIRAMA = /[\u094d\u09cd\u0a4d\u0acd\u0b4d\u0bcd\u0c4d\u0ccd\u0d3b\u0d3c\u0d4d\u0dca\u1039\u103a\u17d2]/u;
const MOST_MARKS = 8;
const LONGEST_WORD = 256;
const LONGEST = 4000;
const SHORT = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };

/** A text of one line as people may see it. */
export function fit(text) {
  const said = String(text);
  if (said.length <= LONGEST_WORD && /^[\x20-\x7e]*$/.test(said)) return said;
  const seen = cut(escaped(cut([...said], 2 * LONGEST)), LONGEST).join("");
  return seen.replace(WORD, (word) => cut([...word], LONGEST_WORD).join(""));
}

function escaped(characters) {
  let marks = 0;
  const found = characters.map((character, index) => {
    marks = /[\p{Mn}\p{Me}]/u.test(character) ? marks + 1 : 0;
    const stays = UNSEEN.test(character)
      ? needed(character, characters[index - 1], characters[index + 1])
      : !/[\p{C}\p{Zl}\p{Zp}]/u.test(character) || SIGNS.test(character);
    return stays && marks <= MOST_MARKS ? character : escape(character);
  });
  return [...found.join("")];
}

function escape(character) {
  if (SHORT[character]) return SHORT[character];
  const code = character.codePointAt(0);
  const [mark, width] = code < 0x100 ? ["x", 2] : code < 0x10000 ? ["u", 4] : ["U", 8];
  return `\\${mark}${code.toString(16).padStart(width, "0")}`;
}

function needed(character, before, after) {
  if (before === undefined || NEVER.test(character)) return false;
  if (character === "\u200c" || character === "\u200d") return joins(character, before, after);
  if (/[\u180b-\u180f]/u.test(character)) return MONGOLIAN.test(before) && !UNSEEN.test(before);
  if (character.codePointAt(0) >= 0xe0100) return IDEOGRAPH.test(before);
  return /[0-9#*]/.test(before) ? after === "\u20e3" : before.codePointAt(0) > 0x9f && !UNSEEN.test(before);
}

function joins(character, before, after) {
  if (VIRAMA.test(before)) return true;
  if (after === undefined || UNSEEN.test(after)) return false;
  if (COMPLEX.test(before) && COMPLEX.test(after)) return true;
  const emoji = /[\p{So}\p{Sk}]/u.test(before) || before === "\ufe0f";
  return character === "\u200d" && emoji && before.codePointAt(0) > 0x9f && /\p{So}/u.test(after);
}

/** Without its middle, if it is too long. A joiner does not stand at the cut. */
function cut(characters, longest) {
  if (characters.length <= longest) return characters;
  const rest = Math.floor(longest / 3);
  const edge = /[\u200c\u200d\ufe00-\ufe0f]/u;
  const head = characters.slice(0, longest - rest - 1);
  const tail = characters.slice(-rest);
  while (head.length && edge.test(head.at(-1))) head.pop();
  while (tail.length && edge.test(tail[0])) tail.shift();
  return [...head, "…", ...tail];
}
