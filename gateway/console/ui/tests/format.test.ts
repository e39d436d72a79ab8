import assert from 'node:assert/strict';
import { beforeEach, test } from 'node:test';
import { age, bucketName, change, count, exactCents, exactMoney, milliseconds, money, percent, setLocale, short } from '../src/format.ts';

beforeEach(() => setLocale('en-US'));

test('money is to the cent, and what is less than half a cent says so', () => {
  assert.equal(money('303.046860'), '$3.03');
  assert.equal(money('0'), '$0.00');
  assert.equal(money('0.2'), '< $0.01');
  assert.equal(money('12345678901234567890.5'), '$123,456,789,012,345,678.91');
});

test('the exact figure has every digit', () => {
  assert.equal(exactMoney('26.0587651234'), '$0.260587651234');
  assert.equal(exactCents('26.058765'), '26.058765 cents = $0.26058765');
});

test('numbers are as the locale writes them', () => {
  setLocale('de-DE');
  assert.equal(count(1234567), '1.234.567');
  assert.equal(percent(0.1234), '12,3\u00a0%');
  assert.equal(money('123456'), '1.234,56\u00a0$');
});

test('large counts are short, and exact where they are small', () => {
  assert.equal(short(999_999), '999,999');
  assert.equal(short(13_040_000), '13.04M');
  assert.equal(short('9007199254740993'), '9007.20T');
});

test('rates and times without a figure are a dash', () => {
  assert.equal(percent(null), '–');
  assert.equal(milliseconds(null), '–');
  assert.equal(percent(0.0042), '0.42%');
  assert.equal(milliseconds(9_999), '9,999 ms');
  assert.equal(milliseconds(12_345), '12.3 s');
});

test('a change needs something to compare with', () => {
  assert.equal(change('150', '100'), 0.5);
  assert.equal(change(1, 0), null);
  assert.equal(change(null, 1), null);
});

test('ages are in the largest unit that says enough', () => {
  assert.deepEqual([5, 119, 600, 7200, 200_000].map(age), ['5 s', '119 s', '10 min', '2 h', '2 d']);
});

test('buckets are named in the zone', () => {
  assert.equal(bucketName('2026-11-01T00:00:00+05:30', 'day', 'Asia/Kolkata'), 'Sun, Nov 1, 2026');
  assert.equal(bucketName('2026-10-31T23:00:00Z', 'hour', 'Europe/Berlin'), 'Nov 1, 00:00');
});
