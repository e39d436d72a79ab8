import assert from 'node:assert/strict';
import { test } from 'node:test';
import { addHours, bucketWindow, calendar, granularities, instantOf, isLocal, isZone, lengthHours, localOf, presets, usualGranularity, utcText } from '../src/window.ts';

const now = Date.parse('2026-11-28T01:30:00Z');

function preset(id: string, zone: string) {
  return presets('reliability').find((each) => each.id === id)?.of(now, zone);
}

test('presets are whole local days, with today', () => {
  assert.deepEqual(preset('7d', 'UTC'), { start: '2026-11-22', end: '2026-11-29' });
  assert.deepEqual(preset('today', 'America/New_York'), { start: '2026-11-27', end: '2026-11-28' });
  assert.deepEqual(preset('month', 'Asia/Kolkata'), { start: '2026-11-01', end: '2026-12-01' });
  assert.deepEqual(preset('last-month', 'UTC'), { start: '2026-10-01', end: '2026-11-01' });
});

test('presets of hours end with the hour under way', () => {
  assert.deepEqual(preset('6h', 'UTC'), { start: '2026-11-27T20:00', end: '2026-11-28T02:00' });
  assert.deepEqual(preset('24h', 'Asia/Kolkata'), { start: '2026-11-27T08:00', end: '2026-11-28T08:00' });
});

test('local times become instants with the offset of their day', () => {
  assert.equal(utcText('2026-07-01', 'Europe/Berlin'), '2026-06-30T22:00:00Z');
  assert.equal(utcText('2026-12-01', 'Europe/Berlin'), '2026-11-30T23:00:00Z');
  assert.equal(utcText('2026-12-01T09:30', 'Asia/Kathmandu'), '2026-12-01T03:45:00Z');
});

test('of a time that a clock shows twice it is the first, of one that is left out what follows', () => {
  assert.equal(utcText('2026-10-25T02:30', 'Europe/Berlin'), '2026-10-25T00:30:00Z');
  assert.equal(utcText('2026-03-29T02:30', 'Europe/Berlin'), '2026-03-29T01:30:00Z');
  // Midnight itself is left out where clocks change at midnight: the day begins at one.
  assert.equal(localOf(instantOf('2026-09-06', 'America/Santiago'), 'America/Santiago'), '2026-09-06T01:00');
});

test('days of 23 and 25 hours have their length', () => {
  assert.equal(lengthHours({ start: '2026-03-29', end: '2026-03-30' }, 'Europe/Berlin'), 23);
  assert.equal(lengthHours({ start: '2026-10-25', end: '2026-10-26' }, 'Europe/Berlin'), 25);
  assert.equal(addHours('2026-10-25T01:00', 3, 'Europe/Berlin'), '2026-10-25T03:00');
});

test('a bucket ends where the calendar says', () => {
  assert.deepEqual(bucketWindow('2026-10-25T00:00:00+02:00', 'day', 'Europe/Berlin'), { start: '2026-10-24T22:00:00Z', end: '2026-10-25T23:00:00Z' });
  assert.deepEqual(bucketWindow('2026-11-01T00:00:00Z', 'month', 'UTC'), { start: '2026-11-01T00:00:00Z', end: '2026-12-01T00:00:00Z' });
  assert.deepEqual(bucketWindow('2026-11-01T10:05:00Z', 'minute', 'UTC'), { start: '2026-11-01T10:05:00Z', end: '2026-11-01T10:06:00Z' });
});

test('only granularities that the API takes are offered', () => {
  const day = { start: '2026-11-01', end: '2026-11-02' };
  const hours = { start: '2026-11-01T01:00', end: '2026-11-01T07:00' };
  assert.deepEqual(granularities('usage', day, 'UTC'), ['hour', 'day', 'week', 'month']);
  assert.deepEqual(granularities('reliability', hours, 'UTC'), ['minute', 'hour']);
  assert.deepEqual(granularities('usage', { start: '2026-01-01', end: '2026-07-01' }, 'UTC'), ['day', 'week', 'month']);
  assert.deepEqual(granularities('usage', { start: '2020-01-01', end: '2026-07-01' }, 'UTC'), []);
  assert.equal(usualGranularity('reliability', hours, 'UTC'), 'minute');
  assert.equal(usualGranularity('usage', day, 'UTC'), 'hour');
  assert.equal(usualGranularity('usage', { start: '2026-11-01', end: '2026-12-01' }, 'UTC'), 'day');
});

test('weeks of the calendar begin on Monday', () => {
  const days = calendar({ start: '2026-11-01', end: '2026-11-16' }, 'week', 'UTC').map((time) => new Date(time * 1000).toISOString().slice(0, 10));
  assert.deepEqual(days, ['2026-10-26', '2026-11-02', '2026-11-09']);
});

test('what is no time or no zone is known', () => {
  assert.deepEqual(['2026-02-28', '2026-02-30', '2026-11-01T25:00', 'x', '2026-11-01T10:00'].map(isLocal), [true, false, false, false, true]);
  assert.deepEqual(['Asia/Kolkata', 'Mars/Base', ''].map(isZone), [true, false, false]);
});
