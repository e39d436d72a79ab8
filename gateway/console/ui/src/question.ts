/** What the API is asked for a view. */

import { absolute, ROOT } from './api.ts';
import { dimensionOf, ORDER_OF, type View } from './address.ts';
import { bucketWindow, utcText } from './window.ts';

export function pathOf(view: View, what: string): string {
  return view.org === 'all' ? `${ROOT}/${what}` : `${ROOT}/orgs/${view.org}/${what}`;
}

interface Asked {
  granularity?: string;
  group?: string[];
  compare?: boolean;
  /** only these groups and the rest; else all */
  top?: boolean;
}

/** The parameters that usage and reliability take for a view. */
export function parameters(view: View, asked: Asked): URLSearchParams {
  const group = asked.group ?? view.group;
  const query = new URLSearchParams({
    start: utcText(view.start, view.zone),
    end: utcText(view.end, view.zone),
    granularity: asked.granularity ?? view.by,
  });
  if (view.zone !== 'UTC') query.set('timeZone', view.zone);
  query.set('groupBy', group.length > 0 ? group.join(',') : 'none');
  for (const [name, values] of Object.entries(view.filters)) {
    if (name === 'orgId' && view.org !== 'all') continue;
    for (const value of values) query.append(name, value);
  }
  if (asked.top !== false && group.length > 0) {
    query.set('top', String(view.top));
    if (view.measure !== 'cost') query.set('orderBy', ORDER_OF[view.measure]);
  }
  if (asked.compare) query.set('compare', 'previous');
  return query;
}

export function question(view: View, what: 'usage' | 'reliability', asked: Asked = {}): string {
  return `${pathOf(view, what)}?${parameters(view, asked).toString()}`;
}

/** The raw events of a bucket, or of the whole window. */
export function incident(view: View, bucketStart: string, status: string): string {
  const window = bucketStart
    ? bucketWindow(bucketStart, view.by, view.zone)
    : { start: utcText(view.start, view.zone), end: utcText(view.end, view.zone) };
  const query = new URLSearchParams(window);
  const [model] = view.filters['modelId'] ?? [];
  if (model && view.filters['modelId']?.length === 1) query.set('modelId', model);
  if (status) query.set('status', status);
  return `${pathOf(view, 'incidents/export')}?${query.toString()}`;
}

/** A shell's word for any text. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** The command that asks the same. */
export function curl(path: string, accept: string): string {
  return `curl -s -H ${quoted(`Accept: ${accept}`)} ${quoted(absolute(path))}`;
}

/** Whether a filter may stand beside the dimension that is grouped by, and beside the other filters. */
export function mayFilter(view: View, dimension: string): boolean {
  if (dimension === 'model' || (dimension === 'org' && view.org === 'all')) return true;
  if (dimension === 'org') return false;
  const grouped = view.group.filter((each) => each !== 'model' && each !== 'org');
  const filtered = Object.keys(view.filters)
    .map(dimensionOf)
    .filter((each) => each !== 'model' && each !== 'org');
  return [...grouped, ...filtered].every((each) => each === dimension);
}

/** Group by something else; a filter that could not stand beside it is dropped. */
export function regrouped(view: View, group: string[]): View {
  const next: View = { ...view, group, filters: {}, at: '' };
  for (const [name, values] of Object.entries(view.filters)) {
    if (mayFilter(next, dimensionOf(name))) next.filters[name] = values;
  }
  return next;
}
