/** The address holds the whole view: who opens the link sees the same. */

import { addDays, granularities, isLocal, isZone, localOf, presets, usualGranularity, type Window } from './window.ts';

export type Page = 'usage' | 'reliability' | 'exports';

/** What is shown. org is 'all' for all organisations, and unless the address names one. */
export interface View extends Window {
  page: Page;
  org: string;
  zone: string;
  by: string;
  /** model, a dimension, both, or nothing */
  group: string[];
  /** the values of each member that is filtered by, such as clientId */
  filters: Record<string, string[]>;
  top: number;
  measure: Measure;
  /** column and direction, such as -cost */
  sort: string;
  /** the bucket that was chosen, as the API names it */
  at: string;
}

export const MEASURES = ['cost', 'calls', 'tokens', 'errors'] as const;
export type Measure = (typeof MEASURES)[number];

export const ORDER_OF: Record<Measure, string> = {
  cost: 'costEstimateCents',
  calls: 'invocations',
  tokens: 'inputTokens',
  errors: 'errors',
};

export const TOPS = [5, 10, 25, 50];

export const MEMBERS: Record<string, string> = {
  org: 'orgId',
  model: 'modelId',
  client: 'clientId',
  actor: 'actorId',
  apiKey: 'apiKeyId',
  provider: 'provider',
  operation: 'operation',
};

/** The event's name of a dimension. */
export function member(dimension: string): string {
  return MEMBERS[dimension] ?? dimension;
}

/** The dimension of an event's member. */
export function dimensionOf(name: string): string {
  return Object.entries(MEMBERS).find(([, each]) => each === name)?.[0] ?? name;
}

function isDimension(name: string): boolean {
  return name in MEMBERS || /^metadata\.[A-Za-z0-9_.-]{1,64}$/.test(name);
}

const ORG = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

export function isOrg(text: string): boolean {
  return ORG.test(text) && !/^[0-]+$/.test(text);
}

/** Read an address. What it does not say, or says wrongly, is as it usually is. */
export function readAddress(hash: string, now: number, usualZone: string): View {
  const [path = '', query = ''] = hash.replace(/^#\/?/, '').split('?', 2);
  const given = new URLSearchParams(query);
  const page: Page = path === 'reliability' || path === 'exports' ? path : 'usage';
  const zone = isZone(given.get('zone') ?? '') ? (given.get('zone') as string) : usualZone;
  const org = given.get('org') ?? '';
  const chosen = isOrg(org) ? org.toLowerCase() : 'all';
  const window = readWindow(given, page, now, zone);
  const by = given.get('by') ?? '';
  const measure = MEASURES.find((name) => name === given.get('measure')) ?? 'cost';
  const filters: Record<string, string[]> = {};
  for (const name of new Set(given.keys())) {
    if (isDimension(dimensionOf(name)) && name === member(dimensionOf(name))) filters[name] = given.getAll(name).slice(0, 100);
  }
  const group = given.get('group');
  return {
    page,
    org: chosen,
    ...window,
    zone,
    by: granularities(page, window, zone).includes(by) ? by : usualGranularity(page, window, zone),
    group: group === null ? [chosen === 'all' ? 'org' : 'model'] : group.split(',').filter((name) => isDimension(name) && (name !== 'org' || chosen === 'all')).slice(0, 3),
    filters,
    top: readTop(given.get('top')),
    measure,
    sort: /^-?[a-z0-9]{1,20}$/i.test(given.get('sort') ?? '') ? (given.get('sort') as string) : '',
    at: Number.isNaN(Date.parse(given.get('at') ?? '')) ? '' : (given.get('at') as string),
  };
}

function readTop(text: string | null): number {
  const top = Number(text);
  return Number.isInteger(top) && top >= 1 && top <= 100 ? top : 10;
}

function readWindow(given: URLSearchParams, page: string, now: number, zone: string): Window {
  const start = given.get('start') ?? '';
  const end = given.get('end') ?? '';
  if (isLocal(start) && isLocal(end) && start < end) return { start, end };
  const wanted = given.get('range') ?? (page === 'reliability' ? '24h' : '7d');
  const preset = presets('reliability').find((each) => each.id === wanted);
  if (preset) return preset.of(now, zone);
  const today = localOf(now, zone).slice(0, 10);
  return { start: addDays(today, -6), end: addDays(today, 1) };
}

/** Write the address of a view: all of it, so that it says the same tomorrow and elsewhere. */
export function writeAddress(view: View): string {
  const query = new URLSearchParams();
  query.set('org', view.org);
  query.set('start', view.start);
  query.set('end', view.end);
  query.set('zone', view.zone);
  if (view.page !== 'exports') {
    query.set('by', view.by);
    query.set('group', view.group.join(','));
    query.set('top', String(view.top));
    query.set('measure', view.measure);
    if (view.sort) query.set('sort', view.sort);
    if (view.at) query.set('at', view.at);
    for (const [name, values] of Object.entries(view.filters)) for (const value of values) query.append(name, value);
  }
  return `#/${view.page}?${query.toString()}`;
}
