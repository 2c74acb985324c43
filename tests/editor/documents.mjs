// The documents that the language servers read.

import { readdirSync, readFileSync } from 'node:fs';

const root = new URL('../../', import.meta.url);

const text = (name) => readFileSync(new URL(name, root), 'utf8');

export const schema = JSON.parse(text('docs/policy.schema.json'));

/** The keys of the schema at a path such as `policies[].breaker`, with what stands there. */
export function keysAt(path) {
  let place = schema;
  for (const step of path.split('.').filter(Boolean)) {
    place = place.properties[step.replace('[]', '')];
    place = step.endsWith('[]') ? place.items : place;
  }
  return place.properties;
}

/** Every whole policy document that a page shows, and the good ones that `check` is tested with, by name. */
export function good() {
  const pages = ['README.md', ...readdirSync(new URL('docs/', root)).map((name) => `docs/${name}`)];
  const documents = new Map();
  for (const page of pages.filter((name) => name.endsWith('.md'))) {
    for (const [at, [, fenced]] of [...text(page).matchAll(/^```json\n([^]*?)^```$/gm)].entries()) {
      documents.set(`${page}, example ${at + 1}`, fenced);
    }
  }
  for (const name of ['good.json', 'suspicious.json']) {
    documents.set(name, text(`tools/check/tests/fixtures/${name}`));
  }
  return documents;
}

/** The document in YAML that the page about editors shows; it names the schema beside it. */
export const ofPage = text('docs/editor.md').match(/^```yaml\n([^]*?)^```$/m)[1];

/** A document with mistakes: `written` stands in it once, and a part of `said` is said of it. */
export const mistakes = [
  { written: 'braker', said: 'braker is not allowed' },
  { written: 'Orders API', said: '1 to 63 characters of a-z, 0-9, _ and -' },
  { written: '10 s', said: 'must be a duration from 1ms to 24h' },
  { written: '140', said: 'above the maximum of 100' },
  { written: '1.5', said: 'integer' },
  { written: 'forced', said: '"forced_open"' },
  { written: '4xx', said: '"retriable-4xx"' },
  { written: 'get', said: 'an HTTP method such as "GET", whose case counts' },
  { written: 'orders:80', said: 'an address and a port' },
  { written: 'CANCELED', said: '"CANCELLED"' },
  { written: '/a***', said: 'at most two stars in a row' },
  { written: '${nope}', said: 'no variables but ${reason}' },
  { written: 'Connection', said: 'may not be set' },
  { written: '33', said: 'needs outcome.slow_after' },
  { written: 'throttled', said: 'the policy has no throttle' },
];

/** The document with all of them. */
export const bad = {
  policies: [
    {
      name: 'Orders API',
      braker: {},
      match: { path: ['/a***'] },
      outcome: { ignore: { grpc_status: ['CANCELED'] } },
      breaker: { open_for: '10 s', failure_rate: 140, min_requests: 1.5, slow_rate: 33, state: 'forced' },
      retry: { on: ['4xx'], methods: ['get'] },
      outlier: { hosts: ['orders:80'] },
      fallback: [{ on: ['throttled'], respond: { status: 200, headers: { Connection: 'close' }, body: '${nope}' } }],
    },
  ],
};

/** A text without the `|` that marks a place in it, and the place. */
export function marked(text) {
  const offset = text.indexOf('|');
  const before = text.slice(0, offset).split('\n');
  return {
    text: text.slice(0, offset) + text.slice(offset + 1),
    position: { line: before.length - 1, character: before.at(-1).length },
  };
}

/** What is between the two ends of a range. */
export function within(text, range) {
  const lines = text.split('\n').slice(range.start.line, range.end.line + 1);
  lines[lines.length - 1] = lines.at(-1).slice(0, range.end.character);
  return lines.join('\n').slice(range.start.character);
}
