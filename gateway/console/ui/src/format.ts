/** Numbers and times as the person's locale writes them. */

import { compare, unitsOfCents, type Exact } from './exact.ts';

export const NONE = '–';

let locale: string | undefined;

/** Choose a locale; for tests. */
export function setLocale(chosen: string | undefined): void {
  locale = chosen;
  formats.clear();
}

const formats = new Map<string, Intl.NumberFormat>();

function number(options: Intl.NumberFormatOptions): Intl.NumberFormat {
  const key = JSON.stringify(options);
  let found = formats.get(key);
  if (!found) {
    found = new Intl.NumberFormat(locale, options);
    formats.set(key, found);
  }
  return found;
}

/** Intl takes decimal text and loses no digit of it; the types do not know that yet. */
function written(format: Intl.NumberFormat, value: Exact): string {
  return format.format(value as number);
}

/** Money to the cent. What is less than a cent, and not nothing, says so. */
export function money(cents: Exact): string {
  const format = number({ style: 'currency', currency: 'USD' });
  const units = unitsOfCents(cents);
  if (compare(units, 0) > 0 && compare(units, '0.005') < 0) return `< ${format.format(0.01)}`;
  return written(format, units);
}

/** Money with every digit there is. */
export function exactMoney(cents: Exact): string {
  return written(number({ style: 'currency', currency: 'USD', maximumFractionDigits: 20 }), unitsOfCents(cents));
}

/** The cost as the API gives it. */
export function exactCents(cents: Exact): string {
  return `${String(cents)} cents = ${exactMoney(cents)}`;
}

export function count(value: Exact): string {
  return written(number({ maximumFractionDigits: 0 }), value);
}

/** Large counts short, such as 1.23M. */
export function short(value: Exact): string {
  if (Math.abs(Number(value)) < 1_000_000) return count(value);
  return written(number({ notation: 'compact', minimumFractionDigits: 2, maximumFractionDigits: 2 }), value);
}

export function percent(share: number | null): string {
  if (share === null || !Number.isFinite(share)) return NONE;
  const digits = share !== 0 && Math.abs(share) < 0.1 ? 2 : 1;
  return number({ style: 'percent', minimumFractionDigits: digits, maximumFractionDigits: digits }).format(share);
}

export function milliseconds(value: number | null): string {
  if (value === null) return NONE;
  return value < 10_000
    ? `${number({ maximumFractionDigits: 0 }).format(value)} ms`
    : `${number({ maximumFractionDigits: 1, minimumFractionDigits: 1 }).format(value / 1000)} s`;
}

/** By how much a figure has changed; null where there is nothing to compare with. */
export function change(now: Exact | null, before: Exact | null | undefined): number | null {
  if (now === null || before === null || before === undefined || Number(before) === 0) return null;
  return (Number(now) - Number(before)) / Number(before);
}

export function signedPercent(share: number): string {
  return number({ style: 'percent', maximumFractionDigits: 1, signDisplay: 'exceptZero' }).format(share);
}

/** An age in words: 12 s, 5 min, 3 h, 2 d. */
export function age(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 120) return `${whole} s`;
  if (whole < 2 * 3600) return `${Math.floor(whole / 60)} min`;
  if (whole < 48 * 3600) return `${Math.floor(whole / 3600)} h`;
  return `${Math.floor(whole / 86_400)} d`;
}

export function bytes(size: number): string {
  if (size < 1000) return `${size} B`;
  if (size < 1_000_000) return `${number({ maximumFractionDigits: 1 }).format(size / 1000)} kB`;
  return `${number({ maximumFractionDigits: 1 }).format(size / 1_000_000)} MB`;
}

const times = new Map<string, Intl.DateTimeFormat>();

function time(options: Intl.DateTimeFormatOptions): Intl.DateTimeFormat {
  const key = JSON.stringify(options);
  let found = times.get(key);
  if (!found) {
    found = new Intl.DateTimeFormat(locale, options);
    times.set(key, found);
  }
  return found;
}

/** A bucket's begin as a person says it: a time of day where buckets are shorter than a day. */
export function bucketName(instant: string, granularity: string, timeZone: string): string {
  const date = new Date(instant);
  if (granularity === 'minute' || granularity === 'hour') {
    return time({ timeZone, month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', hourCycle: 'h23' }).format(date);
  }
  if (granularity === 'month') return time({ timeZone, year: 'numeric', month: 'long' }).format(date);
  const day = time({ timeZone, weekday: 'short', year: 'numeric', month: 'short', day: 'numeric' }).format(date);
  return granularity === 'week' ? `week of ${day}` : day;
}

/** An instant in full, with the name of its zone. */
export function instantName(instant: string | number, timeZone: string): string {
  return time({ timeZone, dateStyle: 'medium', timeStyle: 'long', hourCycle: 'h23' }).format(new Date(instant));
}

/** An axis label. step: seconds between labels. */
export function axisName(seconds: number, step: number, timeZone: string): string {
  const date = new Date(seconds * 1000);
  if (step < 86_400) return time({ timeZone, hour: '2-digit', minute: '2-digit', hourCycle: 'h23' }).format(date);
  if (step < 25 * 86_400) return time({ timeZone, month: 'short', day: 'numeric' }).format(date);
  return time({ timeZone, year: 'numeric', month: 'short' }).format(date);
}

export function axisDay(seconds: number, timeZone: string): string {
  return time({ timeZone, month: 'short', day: 'numeric' }).format(new Date(seconds * 1000));
}
