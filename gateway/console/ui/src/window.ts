/** Windows of local time: what people choose, and the instants that the API is asked for. */

/** A local time: YYYY-MM-DD, or YYYY-MM-DDTHH:MM. end is not included. */
export interface Window {
  start: string;
  end: string;
}

const LOCAL = /^(\d{4})-(\d{2})-(\d{2})(?:T(\d{2}):(\d{2}))?$/;
const HOUR = 3_600_000;
const DAY = 24 * HOUR;

/** Whether a text is a local time that exists in the calendar. */
export function isLocal(text: string): boolean {
  const found = LOCAL.exec(text);
  if (!found) return false;
  const made = new Date(wall(text));
  return !Number.isNaN(made.getTime()) && made.toISOString().startsWith(text.slice(0, 10));
}

export function isZone(name: string): boolean {
  try {
    new Intl.DateTimeFormat('en', { timeZone: name });
    return name !== '';
  } catch {
    return false;
  }
}

/** Names of old that some browsers still give, and what people look for. */
const RENAMED: Record<string, string> = {
  'Africa/Asmera': 'Africa/Asmara',
  'America/Buenos_Aires': 'America/Argentina/Buenos_Aires',
  'America/Godthab': 'America/Nuuk',
  'America/Indianapolis': 'America/Indiana/Indianapolis',
  'Asia/Calcutta': 'Asia/Kolkata',
  'Asia/Katmandu': 'Asia/Kathmandu',
  'Asia/Rangoon': 'Asia/Yangon',
  'Asia/Saigon': 'Asia/Ho_Chi_Minh',
  'Atlantic/Faeroe': 'Atlantic/Faroe',
  'Europe/Kiev': 'Europe/Kyiv',
  'Pacific/Enderbury': 'Pacific/Kanton',
};

export function browserZone(): string {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  return zone && zone !== 'Etc/Unknown' ? (RENAMED[zone] ?? zone) : 'UTC';
}

/** All zones the browser knows, for a menu. */
export function zones(): string[] {
  const known = Intl.supportedValuesOf('timeZone').map((name) => RENAMED[name] ?? name);
  return ['UTC', ...[...new Set(known)].filter((name) => name !== 'UTC').sort()];
}

/** A local time as if it were UTC, in milliseconds. */
function wall(text: string): number {
  return Date.parse(`${text.length === 10 ? `${text}T00:00` : text}:00Z`);
}

const parts = new Map<string, Intl.DateTimeFormat>();

/** The local time of an instant, as if it were UTC, in milliseconds; whole seconds. */
function wallOf(instant: number, timeZone: string): number {
  let format = parts.get(timeZone);
  if (!format) {
    format = new Intl.DateTimeFormat('en-US', {
      timeZone,
      hourCycle: 'h23',
      year: 'numeric',
      month: '2-digit',
      day: '2-digit',
      hour: '2-digit',
      minute: '2-digit',
      second: '2-digit',
    });
    parts.set(timeZone, format);
  }
  const of = Object.fromEntries(format.formatToParts(instant).map((part) => [part.type, part.value]));
  return Date.UTC(Number(of['year']), Number(of['month']) - 1, Number(of['day']), Number(of['hour']), Number(of['minute']), Number(of['second']));
}

/** The instant of a local time. Of one that a clock shows twice the first, of one that it leaves out what follows. */
export function instantOf(local: string, timeZone: string): number {
  const wanted = wall(local);
  // A zone's offset changes at most once a day: one of the offsets around is the right one.
  const offsets = [...new Set([-DAY, DAY].map((around) => wallOf(wanted + around, timeZone) - (wanted + around)))];
  const found = offsets.map((offset) => wanted - offset).filter((instant) => wallOf(instant, timeZone) === wanted);
  if (found.length > 0) return Math.min(...found);
  // Left out: with the offset from before, the clock shows the same time after the gap.
  return wanted - Math.min(...offsets);
}

/** RFC 3339 in UTC, as the API is asked. */
export function utcText(local: string, timeZone: string): string {
  return new Date(instantOf(local, timeZone)).toISOString().replace('.000Z', 'Z');
}

/** The local time of an instant; seconds are left out. */
export function localOf(instant: number, timeZone: string): string {
  return new Date(wallOf(instant, timeZone)).toISOString().slice(0, 16);
}

export function addDays(date: string, days: number): string {
  return new Date(wall(date.slice(0, 10)) + days * DAY).toISOString().slice(0, 10);
}

function addMonths(date: string, months: number): string {
  const at = new Date(wall(`${date.slice(0, 7)}-01`));
  at.setUTCMonth(at.getUTCMonth() + months);
  return at.toISOString().slice(0, 10);
}

/** Add to a local time by the clock that runs on. */
export function addHours(local: string, hours: number, timeZone: string): string {
  return localOf(instantOf(local, timeZone) + hours * HOUR, timeZone);
}

export interface Preset {
  id: string;
  name: string;
  of: (now: number, timeZone: string) => Window;
}

function days(back: number) {
  return (now: number, timeZone: string): Window => {
    const today = localOf(now, timeZone).slice(0, 10);
    return { start: addDays(today, 1 - back), end: addDays(today, 1) };
  };
}

function hours(back: number) {
  return (now: number, timeZone: string): Window => {
    const hour = `${localOf(now, timeZone).slice(0, 13)}:00`;
    const end = addHours(hour, 1, timeZone);
    return { start: addHours(end, -back, timeZone), end };
  };
}

const LONG: Preset[] = [
  { id: 'today', name: 'Today', of: days(1) },
  { id: '7d', name: '7 days', of: days(7) },
  { id: '30d', name: '30 days', of: days(30) },
  { id: '90d', name: '90 days', of: days(90) },
  {
    id: 'month',
    name: 'This month',
    of: (now, timeZone) => {
      const first = addMonths(localOf(now, timeZone), 0);
      return { start: first, end: addMonths(first, 1) };
    },
  },
  {
    id: 'last-month',
    name: 'Last month',
    of: (now, timeZone) => {
      const first = addMonths(localOf(now, timeZone), -1);
      return { start: first, end: addMonths(first, 1) };
    },
  },
];

const SHORT: Preset[] = [
  { id: '2h', name: '2 hours', of: hours(2) }, // the hour under way and the one before
  { id: '6h', name: '6 hours', of: hours(6) },
  { id: '24h', name: '24 hours', of: hours(24) },
];

export function presets(page: string): Preset[] {
  return page === 'reliability' ? [...SHORT, ...LONG] : LONG;
}

export function lengthHours(window: Window, timeZone: string): number {
  return (instantOf(window.end, timeZone) - instantOf(window.start, timeZone)) / HOUR;
}

const MAX_HOURS: Record<string, number> = { minute: 6, hour: 92 * 24 + 1, day: 400 * 24 + 1, week: 400 * 24 + 1, month: 400 * 24 + 1 };

/** The granularities that a window can be asked by. */
export function granularities(page: string, window: Window, timeZone: string): string[] {
  const length = lengthHours(window, timeZone);
  const whole = window.start.length === 10 && window.end.length === 10;
  return Object.entries(MAX_HOURS)
    .filter(([name, max]) => length <= max && (name !== 'minute' || page === 'reliability'))
    .filter(([name]) => whole || name === 'minute' || name === 'hour')
    .map(([name]) => name);
}

/** What a window is asked by unless somebody chooses. */
export function usualGranularity(page: string, window: Window, timeZone: string): string {
  const length = lengthHours(window, timeZone);
  const possible = granularities(page, window, timeZone);
  const wanted = length <= 6 && page === 'reliability' ? 'minute' : length <= 50 ? 'hour' : length <= 100 * 24 ? 'day' : 'week';
  return possible.includes(wanted) ? wanted : (possible[0] ?? 'day');
}

/** The seconds that a bucket of a granularity lasts, about. */
export function bucketSeconds(granularity: string): number {
  return { minute: 60, hour: 3600, day: 86_400, week: 7 * 86_400, month: 30 * 86_400 }[granularity] ?? 86_400;
}

/** The begins of a window's days, weeks or months, in seconds; those of a week are Mondays. */
export function calendar(window: Window, granularity: string, timeZone: string): number[] {
  const found: number[] = [];
  let date = window.start.slice(0, 10);
  if (granularity === 'month') date = addMonths(date, 0);
  if (granularity === 'week') date = addDays(date, -((new Date(wall(date)).getUTCDay() + 6) % 7));
  while (date < window.end && found.length < 500) {
    found.push(instantOf(date, timeZone) / 1000);
    date = granularity === 'month' ? addMonths(date, 1) : addDays(date, granularity === 'week' ? 7 : 1);
  }
  return found;
}

/** The instants between which a bucket lies; those of days, weeks and months by the zone's calendar. */
export function bucketWindow(bucketStart: string, granularity: string, timeZone: string): { start: string; end: string } {
  const start = Date.parse(bucketStart);
  const date = localOf(start, timeZone).slice(0, 10);
  const days = { day: 1, week: 7 }[granularity];
  if (granularity === 'month') return { start: utc(start), end: utcText(addMonths(date, 1), timeZone) };
  if (days !== undefined) return { start: utc(start), end: utcText(addDays(date, days), timeZone) };
  return { start: utc(start), end: utc(start + bucketSeconds(granularity) * 1000) };
}

export function utc(instant: number): string {
  return new Date(instant).toISOString().replace(/\.000Z$/, 'Z');
}
