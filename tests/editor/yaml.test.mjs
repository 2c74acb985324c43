// What yaml-language-server says of policy documents in YAML.

import assert from 'node:assert/strict';
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, before } from 'node:test';

import { bad, good, keysAt, marked, mistakes, ofPage, within } from './documents.mjs';
import { require } from './packages.mjs';
import { Server } from './server.mjs';

const { stringify } = require('yaml');

/** What names the schema in a file, by its path from there. */
const MODELINE = '# yaml-language-server: $schema=holdfast.schema.json\n';

let directory;
let server;
let files = 0;

before(async () => {
  directory = mkdtempSync(join(tmpdir(), 'holdfast-editor-'));
  copyFileSync(new URL('../../docs/policy.schema.json', import.meta.url), join(directory, 'holdfast.schema.json'));
  // As docs/editor.md has it for Visual Studio Code.
  const schemas = { [join(directory, 'holdfast.schema.json')]: '*.holdfast.yaml' };
  server = await Server.started({ schemas, disableDefaultProperties: true });
});

after(() => {
  server?.stop();
  rmSync(directory, { recursive: true });
});

/** Opens a document that names the schema itself. */
async function opened(text) {
  const path = join(directory, `${(files += 1)}.yaml`);
  return { path, diagnostics: await server.open(path, MODELINE + text) };
}

async function at(withMark) {
  const { text, position } = marked(MODELINE + withMark);
  const { path } = await opened(text.slice(MODELINE.length));
  return [path, position];
}

test('nothing is said of good documents', async () => {
  // At once, because the server waits a little before it looks at a file.
  const said = [...good()].map(async ([name, text]) => [name, (await opened(stringify(JSON.parse(text)))).diagnostics]);
  for (const [name, diagnostics] of await Promise.all(said)) {
    assert.deepEqual(diagnostics, [], name);
  }
});

test('a file whose name the settings give to the schema needs no line of its own', async () => {
  const text = 'policies:\n  - name: orders\n    braker: {}\n';
  const diagnostics = await server.open(join(directory, 'orders.holdfast.yaml'), text);
  assert.deepEqual(diagnostics.map(({ message }) => message), ['Property braker is not allowed.']);
});

test('the document of the page about editors names the schema, and is good', async () => {
  assert.ok(ofPage.startsWith(MODELINE), ofPage);
  assert.deepEqual(await server.open(join(directory, 'page.yaml'), ofPage), []);
  const wrong = await server.open(join(directory, 'wrong.yaml'), ofPage.replace('open_for:', 'open_four:'));
  assert.deepEqual(wrong.map(({ message }) => message), ['Property open_four is not allowed.']);
});

test('a block that is chosen comes without all of its defaults', async () => {
  const items = await server.completions(...(await at('policies:\n  - name: a\n    |\n')));
  const { insertText, textEdit } = items.find(({ label }) => label === 'breaker');
  assert.match(textEdit?.newText ?? insertText, /^breaker:\s*(\{\}|\$1)?\s*$/);
});

test('every mistake is marked where it stands and told', async () => {
  const text = stringify(bad);
  const { diagnostics } = await opened(text);
  const found = diagnostics.map(({ range, message }) => ({ at: within(MODELINE + text, range), message }));
  for (const { written, said } of mistakes) {
    const of = found.filter(({ at, message }) => at.includes(written) && message.includes(said));
    assert.equal(of.length, 1, `${written}: ${JSON.stringify(found, null, 1)}`);
  }
  assert.equal(found.length, mistakes.length, JSON.stringify(found, null, 1));
});

test('the keys of a block are offered with their explanations', async () => {
  for (const [path, text] of [
    ['policies[].breaker', 'policies:\n  - name: a\n    breaker:\n      |\n'],
    ['policies[].retry.budget', 'policies:\n  - name: a\n    retry:\n      budget:\n        |\n'],
    ['policies[].outlier', 'policies:\n  - name: a\n    outlier:\n      |\n'],
  ]) {
    const [items, keys] = [await server.completions(...(await at(text))), keysAt(path)];
    assert.deepEqual(items.map(({ label }) => label).sort(), Object.keys(keys).sort(), path);
    for (const { label, documentation } of items) {
      assert.equal(documentation.value ?? documentation, keys[label].markdownDescription, `${path}.${label}`);
    }
  }
});

test('words are offered', async () => {
  const items = await server.completions(...(await at('policies:\n  - name: a\n    mode: |\n')));
  // Quoted, because YAML 1.1 takes the bare word for `false`.
  assert.deepEqual(items.map(({ label }) => label), ['enforce', 'shadow', '"off"']);
});

test('a key is explained', async () => {
  const said = await server.hover(...(await at('policies:\n  - name: a\n    breaker:\n      failure_|rate: 40\n')));
  assert.ok(said.includes(keysAt('policies[].breaker').failure_rate.markdownDescription), said);
});
