import assert from 'node:assert/strict';
import { test } from 'node:test';
import { grid, nameOf, rows, thinned, together, withGaps } from '../src/series.ts';

interface Point {
  bucketStart: string;
  modelId: string | null;
  other?: true;
  costEstimateCents: string;
}

const points: Point[] = [
  { bucketStart: '2026-11-02T00:00:00Z', modelId: 'a', costEstimateCents: '0.1' },
  { bucketStart: '2026-11-01T00:00:00Z', modelId: 'a', costEstimateCents: '0.2' },
  { bucketStart: '2026-11-01T00:00:00Z', modelId: null, costEstimateCents: '0.3' },
  { bucketStart: '2026-11-01T00:00:00Z', modelId: null, other: true, costEstimateCents: '4' },
];

test('points stand by bucket and group; events without the value are not all other', () => {
  const found = grid(points, ['modelId'], ['["a"]']);
  assert.deepEqual(found.buckets, ['2026-11-01T00:00:00Z', '2026-11-02T00:00:00Z']);
  assert.deepEqual(found.groups.map((group) => nameOf(group.members, group.other)), ['a', '(none)', 'all other']);
  assert.equal(found.groups[0]?.cells[1]?.costEstimateCents, '0.1');
  assert.equal(found.groups[1]?.cells[1], undefined);
});

test('what is drawn together is summed exactly', () => {
  const found = grid(points, ['modelId'], []);
  assert.deepEqual(together(found.groups, 2, (point) => point.costEstimateCents), ['4.5', '0.1']);
});

test('a value that looks like the rest is a group of its own', () => {
  const found = rows([{ bucketStart: '', modelId: 'other' }, { bucketStart: '', modelId: null, other: true as const }], ['modelId']);
  assert.notEqual(found[0]?.key, found[1]?.key);
  assert.equal(nameOf([''], false), '(empty)');
});

test('no line crosses a gap', () => {
  const [times, values] = withGaps([0, 60, 300], 60, [1, 2, 3]);
  assert.deepEqual(times, [0, 60, 120, 300]);
  assert.deepEqual(values, [1, 2, null, 3]);
});

test('a small line keeps the sum', () => {
  assert.deepEqual(thinned([1, 2, 3, 4], 2), [3, 7]);
  assert.deepEqual(thinned([1, 2], 5), [1, 2]);
});
