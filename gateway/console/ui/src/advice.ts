/** What to do about a refusal: the view that would be answered. */

import type { Problem } from './api.ts';
import type { View } from './address.ts';
import { addDays, granularities } from './window.ts';

export interface Advice {
  name: string;
  view: View;
}

const COARSER = ['minute', 'hour', 'day', 'week', 'month'];

/** Views that would fit where this one does not. */
export function advice(problem: Problem, view: View): Advice[] {
  if (problem.status !== 400) return [];
  const fields = new Set(problem.faults.map((fault) => fault.field));
  const found: Advice[] = [];
  const possible = granularities(view.page, view, view.zone);
  const coarser = COARSER.slice(COARSER.indexOf(view.by) + 1).find((name) => possible.includes(name));
  if (fields.has('timeZone')) found.push({ name: 'Show in UTC', view: { ...view, zone: 'UTC' } });
  if (coarser && view.page !== 'exports') found.push({ name: `Show by ${coarser}`, view: { ...view, by: coarser } });
  if ([...fields].some((field) => /^(start|end|timeRange)/.test(field))) {
    const start = addDays(view.end, view.page === 'exports' ? -31 : -90);
    if (start > view.start.slice(0, 10)) {
      found.push({ name: `Show the last ${view.page === 'exports' ? 31 : 90} days of it`, view: { ...view, start, end: view.end.slice(0, 10), by: 'day' } });
    }
  }
  if (view.group.length > 0 && (fields.has('groupBy') || view.group.length > 1)) {
    const group = view.org === 'all' ? ['org'] : ['model'];
    if (group[0] !== view.group[0] || view.group.length > 1) {
      found.push({ name: `Group by ${view.org === 'all' ? 'organisation' : 'model'} alone`, view: { ...view, group, filters: {} } });
    }
  }
  if (Object.keys(view.filters).length > 0) found.push({ name: 'Without filters', view: { ...view, filters: {} } });
  return found;
}

/** What a person can do who may not see this. */
export function refusal(problem: Problem): string {
  if (problem.status === 401) return 'Nobody is signed in here: the proxy before the gateway told no name. Sign in there, then try again.';
  if (problem.status === 403) return 'You are signed in, but may not see this. Ask whoever manages access for what the line above names.';
  if (problem.status === 429) return 'Too much is asked at once. Try again in a moment.';
  if (problem.status === 503) return 'A server that the gateway needs does not answer. Nothing is lost.';
  if (problem.status === 404) return 'There is nothing of this name here, or not for you.';
  return '';
}
