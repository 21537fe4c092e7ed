// Answers requests on stdin, a line of JSON each, with a line of JSON on stdout.
//
// {"definition": {…}} is checked by asl-validator: {"errors": ["…"]}.
// {"expression": "…", "bindings": {…}} is evaluated by the reference implementation of JSONata, in the version whose
// specification Step Functions implements, with the functions that it adds and without $eval, which it lacks:
// {"value": …}, {"undefined": true} or {"error": "…"}.
// https://docs.aws.amazon.com/step-functions/latest/dg/transforming-data.html
import { createHash, randomUUID } from "node:crypto";
import { createInterface } from "node:readline";
import validate from "asl-validator";
import jsonata from "jsonata";

const ALGORITHMS = { "MD5": "md5", "SHA-1": "sha1", "SHA-256": "sha256", "SHA-384": "sha384", "SHA-512": "sha512" };
const MODULUS = 2 ** 32;

const FUNCTIONS = {
  partition: (items, size) =>
    Array.from({ length: Math.ceil(items.length / size) }, (_, i) => items.slice(i * size, (i + 1) * size)),
  range: (first, last, step) =>
    Array.from({ length: Math.floor((last - first) / step) + 1 }, (_, i) => first + i * step),
  hash: (text, algorithm) => createHash(ALGORITHMS[algorithm]).update(text, "utf8").digest("hex"),
  // The same seed gives the same number; AWS does not say which one.
  random: (seed) => (seed === undefined ? Math.random() : ((seed * 1664525 + 1013904223) % MODULUS) / MODULUS),
  uuid: () => randomUUID(),
  parse: (text) => JSON.parse(text),
  eval: () => {
    throw new Error("Step Functions has no $eval; use $parse");
  },
};

const parsed = new Map();

function parse(expression) {
  if (!parsed.has(expression)) {
    parsed.set(expression, jsonata(expression));
  }
  return parsed.get(expression);
}

async function answer({ definition, expression, bindings }) {
  if (definition) {
    return { errors: validate(definition).errors.map((error) => JSON.stringify(error)) };
  }
  try {
    const value = await parse(expression).evaluate(undefined, { ...FUNCTIONS, ...bindings });
    return value === undefined ? { undefined: true } : { value };
  } catch (error) {
    return { error: error.message };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(JSON.stringify(await answer(JSON.parse(line))) + "\n");
}
