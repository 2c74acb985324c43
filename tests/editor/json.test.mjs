// What VS Code and everything that embeds its JSON support says of policy documents in JSON.

import assert from 'node:assert/strict';
import test from 'node:test';

import { bad, good, keysAt, marked, mistakes, schema, within } from './documents.mjs';
import { require } from './packages.mjs';

const { ClientCapabilities, getLanguageService, TextDocument } = require('vscode-json-languageservice');

const service = getLanguageService({ clientCapabilities: ClientCapabilities.LATEST });
service.configure({ schemas: [{ uri: 'file:///holdfast.schema.json', fileMatch: ['*.holdfast.json'], schema }] });

function opened(text) {
  const document = TextDocument.create('file:///orders.holdfast.json', 'json', 1, text);
  return { document, tree: service.parseJSONDocument(document) };
}

async function diagnostics(text) {
  const { document, tree } = opened(text);
  return service.doValidation(document, tree);
}

async function completions(withMark) {
  const { text, position } = marked(withMark);
  const { document, tree } = opened(text);
  return (await service.doComplete(document, position, tree)).items;
}

async function hover(withMark) {
  const { text, position } = marked(withMark);
  const { document, tree } = opened(text);
  return (await service.doHover(document, position, tree)).contents.join('\n');
}

test('nothing is said of good documents', async () => {
  const documents = good();
  assert.ok(documents.size >= 25, `${documents.size} documents`);
  for (const [name, text] of documents) {
    assert.deepEqual(await diagnostics(text), [], name);
  }
});

test('every mistake is marked where it stands and told', async () => {
  const text = JSON.stringify(bad, null, 2);
  const found = (await diagnostics(text)).map(({ range, message }) => ({ at: within(text, range), message }));
  for (const { written, said } of mistakes) {
    const of = found.filter(({ at, message }) => at.includes(written) && message.includes(said));
    assert.equal(of.length, 1, `${written}: ${JSON.stringify(found, null, 1)}`);
  }
  assert.equal(found.length, mistakes.length, JSON.stringify(found, null, 1));
});

test('the keys of every block are offered, each once and with its explanation', async () => {
  for (const [path, text] of [
    ['', '{|}'],
    ['policies[]', '{"policies": [{|}]}'],
    ['policies[].match', '{"policies": [{"match": {|}}]}'],
    ['policies[].outcome.failure', '{"policies": [{"outcome": {"failure": {|}}}]}'],
    ['policies[].breaker', '{"policies": [{"breaker": {|}}]}'],
    ['policies[].retry', '{"policies": [{"retry": {|}}]}'],
    ['policies[].retry.budget', '{"policies": [{"retry": {"budget": {|}}}]}'],
    ['policies[].outlier', '{"policies": [{"outlier": {|}}]}'],
    ['policies[].outlier.consecutive_failures', '{"policies": [{"outlier": {"consecutive_failures": {|}}}]}'],
    ['policies[].fallback[].respond', '{"policies": [{"fallback": [{"respond": {|}}]}]}'],
  ]) {
    const [items, keys] = [await completions(text), keysAt(path)];
    assert.deepEqual(items.map(({ label }) => label).sort(), Object.keys(keys).sort(), path);
    for (const { label, documentation } of items) {
      assert.equal(documentation.value, keys[label].markdownDescription, `${path}.${label}`);
    }
  }
});

test('words are offered with what they stand for', async () => {
  const items = await completions('{"policies": [{"mode": |}]}');
  assert.deepEqual(items.map(({ label }) => label), ['"enforce"', '"shadow"', '"off"']);
  for (const { label, documentation } of items) {
    assert.ok(documentation.value.length > 10, label);
  }
  const reasons = await completions('{"policies": [{"fallback": [{"on": [|]}]}]}');
  assert.ok(reasons.some(({ label }) => label === '"retries_exhausted"'), JSON.stringify(reasons));
});

test('a key is explained', async () => {
  const said = await hover('{"policies": [{"name": "a", "breaker": {"failure_|rate": 40}}]}');
  assert.ok(said.includes(keysAt('policies[].breaker').failure_rate.markdownDescription), said);
  assert.match(said, /Opens when failures reach this share[^]*0 to 100[^]*`50`[^]*Why change it[^]*In Envoy/);
});
