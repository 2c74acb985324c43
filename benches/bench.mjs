// Times the cases as WebAssembly in V8, the engine that Envoy runs, and prints them beside the native numbers.
// Usage: node bench.mjs MODULE NATIVE.json OUT.json

import { readFileSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';

// The same as in main.rs, whose rounds these are too.
const SAMPLES = 15;
const SAMPLE_NS = 10_000_000n;

const [modulePath, nativePath, outPath] = process.argv.slice(2);
const cases = JSON.parse(readFileSync(nativePath, 'utf8'));
const { instance } = await WebAssembly.instantiate(readFileSync(modulePath), {});
const { start, batch, prepare, run } = instance.exports;

// Nanoseconds per operation.
function sample(number) {
  let spent = 0n;
  let operations = 0;
  while (spent < SAMPLE_NS) {
    prepare(number);
    const before = process.hrtime.bigint();
    const done = run(number);
    spent += process.hrtime.bigint() - before;
    operations += done;
    if (done !== batch(number)) {
      throw new Error(`case ${number}: only ${done} of ${batch(number)} operations went as they should`);
    }
  }
  return Number(spent) / operations;
}

if (start() !== cases.length) throw new Error('the module and the native program have different cases');
const samples = cases.map(() => []);
// The first rounds only warm up: V8 replaces its quick code by optimised code meanwhile.
for (let round = -3; round < SAMPLES; round++) {
  for (const number of cases.keys()) {
    const taken = sample(number);
    if (round >= 0) samples[number].push(taken);
  }
}
for (const [number, row] of cases.entries()) {
  const sorted = samples[number].sort((a, b) => a - b);
  row.wasm_ns = Number(sorted[0].toFixed(1));
  row.wasm_median_ns = Number(sorted[SAMPLES >> 1].toFixed(1));
}

const find = (operation, keys, policies) =>
  cases.find(
    (row) =>
      row.operation === operation &&
      row.window === '10s' &&
      row.workers === 1 &&
      row.keys === keys &&
      row.policies === policies,
  );
const ratios = ['admit', 'report success'].flatMap((operation) => {
  const one = find(operation, 1, 1);
  return [
    ['256 keys / 1 key', find(operation, 256, 1)],
    ['100 policies / 1 policy', find(operation, 1, 100)],
  ].map(([of, many]) => ({
    of,
    operation,
    native: Number((many.native_ns / one.native_ns).toFixed(2)),
    wasm: Number((many.wasm_ns / one.wasm_ns).toFixed(2)),
  }));
});

const columns = [
  ['operation', 14, (row) => row.operation],
  ['window', 17, (row) => row.window],
  ['workers', -7, (row) => row.workers],
  ['keys', -4, (row) => row.keys],
  ['policies', -8, (row) => row.policies],
  ['native ns', -9, (row) => row.native_ns.toFixed(0)],
  ['wasm/V8 ns', -10, (row) => row.wasm_ns.toFixed(0)],
  ['reads', -5, (row) => row.store_reads.toFixed(1)],
  ['writes', -6, (row) => row.store_writes.toFixed(1)],
];
const cell = (text, width) => (width < 0 ? String(text).padStart(-width) : String(text).padEnd(width));
console.log(columns.map(([title, width]) => cell(title, width)).join('  '));
for (const row of cases) console.log(columns.map(([, width, text]) => cell(text(row), width)).join('  '));
console.log();
for (const { of, operation, native, wasm } of ratios) {
  console.log(`${cell(`${of}, ${operation}`, 44)}${cell(native.toFixed(2), -6)} native${cell(wasm.toFixed(2), -8)} wasm/V8`);
}
console.log(`\nNanoseconds per operation, the least of ${SAMPLES} samples. The store is a hash map in memory; reads and writes are its
calls per operation, each of which is a host call in Envoy and costs more there.`);

const machine = { cpu: cpus()[0]?.model ?? 'unknown', node: process.version, v8: process.versions.v8 };
writeFileSync(outPath, `${JSON.stringify({ ...machine, samples: SAMPLES, cases, ratios }, null, 2)}\n`);
