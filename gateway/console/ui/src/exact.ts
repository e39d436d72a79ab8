/** Decimals that never pass through a float: an answer's costs stay the text that they came as. */

/** A number of an answer: text where a float could not hold it exactly. */
export type Exact = string | number;

const COST = /"costEstimateCents":\s*(-?[0-9][0-9.eE+-]*)/g;
const LARGE = /"(invocations|errors|[a-zA-Z]*[tT]okens)":\s*([0-9]{16,})/g;

/**
 * Read JSON with costs, and integers of 16 digits and more, as text. A string of the answer cannot be taken
 * for one of these members: a quote within a string has a backslash before it, and so none before a colon.
 */
export function parseExact(json: string): unknown {
  return JSON.parse(json.replace(COST, '"costEstimateCents":"$1"').replace(LARGE, '"$1":"$2"'));
}

interface Scaled {
  units: bigint;
  places: number;
}

function scaled(value: Exact): Scaled {
  const text = plain(value);
  const point = text.indexOf('.');
  const places = point < 0 ? 0 : text.length - point - 1;
  return { units: BigInt(text.replace('.', '')), places };
}

/** Write a number without an exponent. */
function plain(value: Exact): string {
  const text = String(value);
  const found = /^(-?)([0-9]+)(?:\.([0-9]*))?[eE]([+-]?[0-9]+)$/.exec(text);
  if (!found) return text.replace(/\.$/, '');
  const digits = (found[2] ?? '') + (found[3] ?? '');
  const at = (found[2] ?? '').length + Number(found[4]);
  const moved =
    at <= 0
      ? `0.${'0'.repeat(-at)}${digits}`
      : at >= digits.length
        ? digits + '0'.repeat(at - digits.length)
        : `${digits.slice(0, at)}.${digits.slice(at)}`;
  return (found[1] ?? '') + moved;
}

function written({ units, places }: Scaled): string {
  const sign = units < 0n ? '-' : '';
  const digits = (units < 0n ? -units : units).toString().padStart(places + 1, '0');
  const whole = digits.slice(0, digits.length - places);
  const rest = digits.slice(digits.length - places).replace(/0+$/, '');
  return sign + whole + (rest ? `.${rest}` : '');
}

/** Add without rounding. */
export function add(one: Exact, other: Exact): string {
  const a = scaled(one);
  const b = scaled(other);
  const places = Math.max(a.places, b.places);
  const units = a.units * 10n ** BigInt(places - a.places) + b.units * 10n ** BigInt(places - b.places);
  return written({ units, places });
}

/** Compare without rounding: below, at or above 0. */
export function compare(one: Exact, other: Exact): number {
  const a = scaled(one);
  const b = scaled(other);
  const places = Math.max(a.places, b.places);
  const left = a.units * 10n ** BigInt(places - a.places);
  const right = b.units * 10n ** BigInt(places - b.places);
  return left < right ? -1 : left > right ? 1 : 0;
}

/** Cents as the currency's unit, exactly. */
export function unitsOfCents(cents: Exact): string {
  const { units, places } = scaled(cents);
  return written({ units, places: places + 2 });
}

/** For what is drawn, not for what is shown as a number. */
export function approximate(value: Exact): number {
  return Number(value);
}
