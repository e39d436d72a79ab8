/** A chart: bars that stack, or lines. It can be read with a mouse, with the keyboard, and as a table. */

import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import { axisDay, axisName, bucketName } from '../format.ts';
import { withGaps } from '../series.ts';
import { bucketSeconds, bucketWindow, calendar, localOf, type Window } from '../window.ts';

export interface Layer {
  name: string;
  color: string;
  /** what is drawn, bucket by bucket */
  values: (number | null)[];
  /** what is shown of it as a number */
  text: (index: number) => string;
  dash?: number[];
}

interface Props {
  kind: 'bars' | 'lines';
  title: string;
  buckets: string[];
  seconds: number[];
  layers: Layer[];
  /** the whole of a bucket in words */
  total?: (index: number) => string;
  from: number;
  to: number;
  window: Window;
  by: string;
  zone: string;
  dark: boolean;
  axis: (value: number) => string;
  picked?: string;
  onPick?: (bucket: string) => void;
  onZoom?: (from: number, to: number) => void;
}

const HEIGHT = 230;
const MAX_TABLE_ROWS = 120;

/** Height of each layer with all below it. */
function tops(layers: Layer[], length: number): number[][] {
  let below = new Array<number>(length).fill(0);
  return layers.map((layer) => {
    below = below.map((sum, index) => sum + (layer.values[index] ?? 0));
    return below;
  });
}

export function Chart(props: Props) {
  const { kind, title, buckets, seconds, layers, by, zone, dark } = props;
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const latest = useRef(props);
  latest.current = props;
  const [at, setAt] = useState<number | null>(null);
  const [left, setLeft] = useState(0);
  const [said, setSaid] = useState('');

  const drawn = useMemo(() => {
    if (kind === 'bars') {
      const data = [seconds, ...tops(layers, seconds.length).reverse()] as uPlot.AlignedData;
      return { data, place: seconds.map((_, index) => index) };
    }
    const places = seconds.map((_, index) => index as number | null);
    const [times, indexes, ...columns] = withGaps(seconds, bucketSeconds(by), places, ...layers.map((layer) => layer.values));
    return { data: [times, ...columns] as uPlot.AlignedData, place: (indexes ?? []).map((index) => index ?? -1) };
  }, [kind, seconds, layers, by]);

  useEffect(() => {
    const target = box.current;
    if (!target || seconds.length === 0) return undefined;
    const ink = dark ? '#b6bdc9' : '#4b5563';
    const rule = dark ? '#2b323d' : '#e5e8ec';
    const paper = dark ? '#171b21' : '#ffffff';
    const bars = uPlot.paths.bars;
    const order = kind === 'bars' ? [...layers].reverse() : layers;
    const halfStep = bucketSeconds(by) / 2;
    const ends = buckets.map((bucket) => Date.parse(bucketWindow(bucket, by, zone).end) / 1000);
    const lasts = (index: number) => (ends[index] ?? 0) - (seconds[index] ?? 0);
    const range = latest.current.to - latest.current.from;
    const barPixels = (target.clientWidth * 0.86 * bucketSeconds(by)) / Math.max(1, range);
    const named = kind === 'bars' && bucketSeconds(by) >= 86_400 ? calendar(latest.current.window, by, zone) : null;
    const every = named ? Math.max(1, Math.ceil(named.length / Math.max(1, (target.clientWidth - 70) / 84))) : 1;
    const from = (_plot: uPlot, _series: number, first: number, last: number, share: number) =>
      seconds.slice(first, last + 1).map((time, index) => time + lasts(first + index) * share);
    const options: uPlot.Options = {
      width: Math.max(240, target.clientWidth),
      height: HEIGHT,
      padding: [8, 26, 0, 0],
      tzDate: (time) => uPlot.tzDate(new Date(time * 1000), zone),
      legend: { show: false },
      cursor: {
        y: false,
        points: { show: kind === 'lines' },
        drag: { x: true, y: false, setScale: false },
      },
      scales: {
        x: { time: true, range: () => [latest.current.from - (kind === 'bars' ? 0 : halfStep), latest.current.to] },
        y: { range: (_plot, _min, max) => [0, max > 0 ? max * 1.08 : 1] },
      },
      axes: [
        {
          stroke: ink,
          grid: { show: false },
          ticks: { stroke: rule, size: 4 },
          space: 64,
          size: 28,
          // Days and longer are named below the middle of their bar.
          ...(named ? { splits: () => named.filter((_, index) => index % every === 0).map((time) => time + halfStep) } : {}),
          values: (_plot, splits, _axis, _space, step) =>
            splits.map((split) =>
              named
                ? axisName(split - halfStep, bucketSeconds(by), zone)
                : step < 86_400 && localOf(split * 1000, zone).endsWith('T00:00') ? axisDay(split, zone) : axisName(split, step, zone),
            ),
        },
        {
          stroke: ink,
          grid: { stroke: rule, width: 1 },
          ticks: { show: false },
          space: 40,
          size: (_plot, values) => 16 + Math.max(24, ...(values ?? []).map((value) => value.length * 7)),
          values: (_plot, splits) => splits.map((split) => latest.current.axis(split)),
        },
      ],
      series: [
        {},
        ...order.map((layer): uPlot.Series => {
          const common = { label: layer.name, scale: 'y' };
          if (kind === 'bars' && bars) {
            // A bar is as wide as its bucket is long; a line of the paper's colour parts it from the next one.
            return {
              ...common,
              ...(barPixels > 5 ? { stroke: paper, width: 1 } : {}),
              fill: layer.color,
              points: { show: false },
              paths: bars({
                disp: {
                  x0: { unit: 1, values: (u, series, first, last) => from(u, series, first, last, 0.07) },
                  size: { unit: 1, values: (_plot, _series, first, last) => seconds.slice(first, last + 1).map((_, index) => lasts(first + index) * 0.86) },
                },
              }),
            };
          }
          return { ...common, stroke: layer.color, width: 2, dash: layer.dash ?? [], spanGaps: false, points: { show: true, size: drawn.place.length < 90 ? 5 : 3, fill: layer.color } };
        }),
      ],
      hooks: {
        setCursor: [
          (u) => {
            const index = u.cursor.idx;
            const place = index === null || index === undefined ? -1 : (drawn.place[index] ?? -1);
            setAt(place < 0 ? null : place);
            setLeft(u.cursor.left ?? 0);
          },
        ],
        setSelect: [
          (u) => {
            if (u.select.width < 12) return;
            latest.current.onZoom?.(u.posToVal(u.select.left, 'x'), u.posToVal(u.select.left + u.select.width, 'x'));
            u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          },
        ],
        drawClear: [
          (u) => {
            const { picked } = latest.current;
            const time = picked ? Date.parse(picked) / 1000 : NaN;
            if (Number.isNaN(time)) return;
            const shift = kind === 'bars' ? 0 : -halfStep;
            const begin = u.valToPos(time + shift, 'x', true);
            const end = u.valToPos(time + shift + bucketSeconds(by), 'x', true);
            u.ctx.fillStyle = dark ? '#39424f' : '#dfe7f1';
            u.ctx.fillRect(begin, u.bbox.top, Math.max(3, end - begin), u.bbox.height);
          },
        ],
      },
    };
    const made = new uPlot(options, drawn.data, target);
    plot.current = made;
    let pressed = 0;
    const press = (event: MouseEvent) => (pressed = event.clientX);
    const pick = (event: MouseEvent) => {
      const place = drawn.place[made.cursor.idx ?? -1];
      const bucket = place === undefined ? undefined : latest.current.buckets[place];
      if (bucket !== undefined && Math.abs(event.clientX - pressed) < 5) latest.current.onPick?.(bucket);
    };
    made.over.addEventListener('mousedown', press);
    made.over.addEventListener('click', pick);
    const observer = new ResizeObserver(() => made.setSize({ width: Math.max(240, target.clientWidth), height: HEIGHT }));
    observer.observe(target);
    return () => {
      observer.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [kind, buckets, seconds, layers, drawn, by, zone, dark]);

  useEffect(() => plot.current?.redraw(false), [props.picked]);

  const words = (index: number) => {
    const head = `${bucketName(buckets[index] ?? '', by, zone)}: ${props.total ? `${props.total(index)} in all; ` : ''}`;
    const shown = layers.filter((layer) => layer.values[index]).slice(0, 5);
    return head + shown.map((layer) => `${layer.name} ${layer.text(index)}`).join('; ');
  };

  const move = (event: KeyboardEvent) => {
    const last = seconds.length - 1;
    const from = at ?? (event.key === 'ArrowLeft' ? last + 1 : -1);
    const next = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: last }[event.key];
    if (next !== undefined) {
      event.preventDefault();
      const index = Math.min(last, Math.max(0, next));
      const u = plot.current;
      const middle = (seconds[index] ?? 0) + (kind === 'bars' ? bucketSeconds(by) / 3 : 0);
      u?.setCursor({ left: u.valToPos(middle, 'x'), top: 10 }, false);
      setAt(index);
      setLeft(u?.valToPos(middle, 'x') ?? 0);
      setSaid(words(index));
    } else if (event.key === 'Enter' && at !== null) {
      props.onPick?.(buckets[at] ?? '');
    } else if (event.key === 'Escape') {
      setAt(null);
    }
  };

  const shown = at === null ? [] : layers.filter((layer) => layer.values[at] !== null && layer.values[at] !== undefined);
  return (
    <figure class="chart">
      <figcaption>{title}</figcaption>
      <div
        class="plot"
        ref={box}
        role="group"
        tabIndex={0}
        aria-label={`${title}. Chart: the arrow keys read it${props.onPick ? ', Enter chooses' : ''}; the table below has the same.`}
        onKeyDown={move}
        onBlur={() => setAt(null)}
        onMouseLeave={() => setAt(null)}
      >
        {at !== null && (
          <div class={left > (box.current?.clientWidth ?? 0) / 2 ? 'tip before' : 'tip'} style={{ '--at': `${left + 60}px` }}>
            <strong>{bucketName(buckets[at] ?? '', by, zone)}</strong>
            <dl>
              {props.total && (
                <>
                  <dt>in all</dt>
                  <dd>{props.total(at)}</dd>
                </>
              )}
              {shown.map((layer) => (
                <>
                  <dt>
                    <i class="swatch" style={{ background: layer.color }} /> <bdi>{layer.name}</bdi>
                  </dt>
                  <dd>{layer.text(at)}</dd>
                </>
              ))}
            </dl>
          </div>
        )}
      </div>
      {layers.length > 1 && (
        <ul class="legend" aria-label={`Legend: ${title}`}>
          {layers.map((layer) => (
            <li>
              <i class={layer.dash ? 'swatch dashed' : 'swatch'} style={{ '--color': layer.color }} /> <bdi>{layer.name}</bdi>
            </li>
          ))}
        </ul>
      )}
      <p class="hidden" aria-live="polite">
        {said}
      </p>
      <AsTable {...props} />
    </figure>
  );
}

function AsTable({ title, buckets, layers, by, zone, total }: Props) {
  const [open, setOpen] = useState(false);
  const first = Math.max(0, buckets.length - MAX_TABLE_ROWS);
  return (
    <details onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>
        As a table<span class="hidden">: {title}</span>
      </summary>
      {open && (
        <div class="scroll" tabIndex={0} role="region" aria-label={`${title}, as a table`}>
          <table>
            <thead>
              <tr>
                <th scope="col">{by}</th>
                {total && <th scope="col" class="number">in all</th>}
                {layers.map((layer) => (
                  <th scope="col" class="number">
                    <bdi>{layer.name}</bdi>
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {buckets.slice(first).map((bucket, index) => (
                <tr>
                  <th scope="row">{bucketName(bucket, by, zone)}</th>
                  {total && <td class="number">{total(first + index)}</td>}
                  {layers.map((layer) => (
                    <td class="number">{layer.text(first + index)}</td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
          {first > 0 && <p>The newest {MAX_TABLE_ROWS}; the CSV has all.</p>}
        </div>
      )}
    </details>
  );
}

/** A small line without axes: how a group went over the window. */
export function Spark({ values }: { values: number[] }) {
  const max = Math.max(...values, 0);
  if (values.length < 2 || max === 0) return null;
  const points = values.map((value, index) => `${((index * 88) / (values.length - 1) + 1).toFixed(1)},${(19 - (value * 18) / max).toFixed(1)}`);
  return (
    <svg class="spark" width="90" height="20" viewBox="0 0 90 20" aria-hidden="true" focusable="false">
      <polyline points={points.join(' ')} fill="none" stroke="currentColor" stroke-width="1.5" />
    </svg>
  );
}
