import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readAddress, writeAddress } from '../src/address.ts';

const ORG = '000a11ce-0000-4000-8000-000000000000';
const now = Date.parse('2026-11-28T01:30:00Z');
const read = (hash: string) => readAddress(hash, now, 'Europe/Berlin');

test('an address that was written reads as the same view, whenever and wherever', () => {
  const view = read(`#/usage?org=${ORG}&start=2026-11-01&end=2026-11-08&zone=Asia/Kolkata&by=hour&group=model,client&top=25&measure=tokens&sort=-calls&clientId=web&clientId=a%26b`);
  assert.deepEqual(view.filters, { clientId: ['web', 'a&b'] });
  assert.deepEqual(readAddress(writeAddress(view), now + 9e9, 'America/New_York'), view);
});

test('an address that says little means the last seven days of the browser', () => {
  const view = read('');
  assert.equal(view.page, 'usage');
  assert.equal(view.org, 'all');
  assert.deepEqual(view.group, ['org']);
  assert.deepEqual([view.start, view.end, view.zone, view.by], ['2026-11-22', '2026-11-29', 'Europe/Berlin', 'day']);
});

test('a range is turned into days once, so that the link keeps its meaning', () => {
  const view = read(`#/reliability?org=${ORG}&range=6h`);
  assert.deepEqual([view.start, view.end, view.by], ['2026-11-27T21:00', '2026-11-28T03:00', 'minute']);
  assert.ok(!writeAddress(view).includes('range'));
});

test('what an address says wrongly is as it usually is', () => {
  const view = read('#/nowhere?org=<script>&start=2026-13-01&end=x&zone=Mars/Base&by=eon&group=model,drop%20table&top=9999&measure=love&sort=%3Cb%3E&at=soon&__proto__=x&metadata.a%20b=1');
  assert.equal(view.page, 'usage');
  assert.equal(view.org, 'all');
  assert.deepEqual(view.group, ['model']);
  assert.deepEqual([view.top, view.measure, view.sort, view.at, view.zone], [10, 'cost', '', '', 'Europe/Berlin']);
  assert.deepEqual(view.filters, {});
});

test('tags are dimensions too', () => {
  const view = read(`#/usage?org=${ORG}&group=metadata.region&metadata.region=`);
  assert.deepEqual(view.group, ['metadata.region']);
  assert.deepEqual(view.filters, { 'metadata.region': [''] });
  assert.deepEqual(read(writeAddress(view)), view);
});
