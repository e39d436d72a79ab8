/** Points of an answer as groups by buckets. Nothing is added up here but what is drawn together. */

import type { Group } from './api.ts';
import { add, type Exact } from './exact.ts';

export interface Row<Point> {
  key: string;
  /** the group's members in the order of groupBy; null where events have no value */
  members: (string | null)[];
  other: boolean;
  point: Point;
}

export interface Grid<Point> {
  buckets: string[];
  seconds: number[];
  groups: { key: string; members: (string | null)[]; other: boolean; cells: (Point | undefined)[] }[];
}

function membersOf(point: Group, names: string[]): (string | null)[] {
  return names.map((name) => (point as unknown as Record<string, string | null | undefined>)[name] ?? null);
}

function keyOf(point: Group, names: string[]): string {
  return point.other ? 'other' : JSON.stringify(membersOf(point, names));
}

/** Each point of an answer with one bucket is a row. */
export function rows<Point extends Group>(points: Point[], names: string[]): Row<Point>[] {
  return points.map((point) => ({
    key: keyOf(point, names),
    members: membersOf(point, names),
    other: point.other === true,
    point,
  }));
}

/** Arrange points by bucket and group. order: keys that come first, in this order. */
export function grid<Point extends Group>(points: Point[], names: string[], order: string[]): Grid<Point> {
  const places = new Map<string, number>();
  for (const point of points) places.set(point.bucketStart, Date.parse(point.bucketStart) / 1000);
  const buckets = [...places.keys()].sort((a, b) => (places.get(a) ?? 0) - (places.get(b) ?? 0));
  const at = new Map(buckets.map((bucket, index) => [bucket, index]));
  const found = new Map<string, Grid<Point>['groups'][number]>();
  for (const point of points) {
    const key = keyOf(point, names);
    let group = found.get(key);
    if (!group) {
      group = { key, members: membersOf(point, names), other: point.other === true, cells: [] };
      found.set(key, group);
    }
    group.cells[at.get(point.bucketStart) ?? 0] = point;
  }
  const ranks = new Map(order.map((key, index) => [key, index]));
  const rank = (group: { key: string; other: boolean }) => (group.other ? Infinity : (ranks.get(group.key) ?? 1e6));
  return {
    buckets,
    seconds: buckets.map((bucket) => places.get(bucket) ?? 0),
    groups: [...found.values()].sort((a, b) => rank(a) - rank(b) || 0),
  };
}

/** How a group is called. */
export function nameOf(members: (string | null)[], other: boolean): string {
  if (other) return 'all other';
  if (members.length === 0) return 'all';
  return members.map((each) => (each === null ? '(none)' : each === '' ? '(empty)' : each)).join(' · ');
}

/** Some groups as one, bucket by bucket; exactly, since it is shown. */
export function together<Point>(groups: { cells: (Point | undefined)[] }[], length: number, value: (point: Point) => Exact): Exact[] {
  return Array.from({ length }, (_, index) => {
    let sum: Exact = 0;
    for (const group of groups) {
      const point = group.cells[index];
      if (point !== undefined) sum = add(sum, value(point));
    }
    return sum;
  });
}

/** Fewer points for a small line: each is the sum of its share of the buckets. */
export function thinned(values: number[], length: number): number[] {
  if (values.length <= length) return values;
  const made = new Array<number>(length).fill(0);
  values.forEach((value, index) => {
    const place = Math.floor((index * length) / values.length);
    made[place] = (made[place] ?? 0) + value;
  });
  return made;
}

/** Where buckets are missing, a gap, so that no line crosses it. step: seconds a bucket lasts. */
export function withGaps(seconds: number[], step: number, ...columns: (number | null)[][]): [number[], ...(number | null)[][]] {
  const times: number[] = [];
  const made: (number | null)[][] = columns.map(() => []);
  seconds.forEach((time, index) => {
    const before = seconds[index - 1];
    if (before !== undefined && time - before > step * 1.6) {
      times.push(before + step);
      for (const column of made) column.push(null);
    }
    times.push(time);
    columns.forEach((column, at) => made[at]?.push(column[index] ?? null));
  });
  return [times, ...made];
}
