import assert from 'node:assert/strict';
import { test } from 'node:test';
import { add, compare, parseExact, unitsOfCents } from '../src/exact.ts';

test('costs stay the text that they came as', () => {
  const read = parseExact('{"costEstimateCents": 123456789012345678.0000000001, "invocations": 3, "errorRate": 0.5}');
  assert.deepEqual(read, { costEstimateCents: '123456789012345678.0000000001', invocations: 3, errorRate: 0.5 });
});

test('integers that a float cannot hold stay text, and those that it can are numbers', () => {
  const read = parseExact('{"inputTokens":9007199254740993,"outputTokens":12}');
  assert.deepEqual(read, { inputTokens: '9007199254740993', outputTokens: 12 });
});

test('a string that looks like a cost is not touched', () => {
  const name = '"costEstimateCents": 1.50, {"costEstimateCents":2}';
  const json = JSON.stringify({ modelId: name, costEstimateCents: 0 });
  assert.deepEqual(parseExact(json), { modelId: name, costEstimateCents: '0' });
  const last = JSON.stringify({ modelId: 'costEstimateCents', 'x"costEstimateCents': 1 });
  assert.equal((parseExact(last) as Record<string, unknown>)['modelId'], 'costEstimateCents');
});

test('sums lose no digit', () => {
  assert.equal(add('0.1', '0.2'), '0.3');
  assert.equal(add('99999999999999999999.9999999999', '0.0000000001'), '100000000000000000000');
  assert.equal(add(5, '-7.25'), '-2.25');
  assert.equal(add('1e-7', '1E2'), '100.0000001');
});

test('comparisons see what floats do not', () => {
  assert.equal(compare('9007199254740993', '9007199254740992'), 1);
  assert.equal(compare('0.30', 0.3), 0);
  assert.equal(compare(-1, 1), -1);
});

test('cents become units by moving the point', () => {
  assert.equal(unitsOfCents('26.058765'), '0.26058765');
  assert.equal(unitsOfCents(0), '0');
  assert.equal(unitsOfCents('-150'), '-1.5');
});
