/** Numbers as they are shown: short or to the cent, and exact for whoever points at them or prefers it. */

import type { ComponentChildren } from 'preact';
import { createContext } from 'preact';
import { useContext } from 'preact/hooks';
import type { Exact } from '../exact.ts';
import { change, count, exactCents, exactMoney, money, NONE, short, signedPercent } from '../format.ts';

/** Whether every digit is shown in its place. */
export const ExactFigures = createContext(false);

export function Money({ cents }: { cents: Exact }) {
  const exact = useContext(ExactFigures);
  return (
    <data value={String(cents)} title={exactCents(cents)}>
      {exact ? exactMoney(cents) : money(cents)}
    </data>
  );
}

export function Count({ value }: { value: Exact }) {
  const exact = useContext(ExactFigures);
  return (
    <data value={String(value)} title={count(value)}>
      {exact ? count(value) : short(value)}
    </data>
  );
}

interface CardProps {
  name: string;
  figure: ComponentChildren;
  now: Exact | null;
  before?: Exact | null | undefined;
  beforeText?: string;
  children?: ComponentChildren;
}

/** One figure, and how it compares with the window before. */
export function Card({ name, figure, now, before, beforeText, children }: CardProps) {
  const share = change(now, before);
  return (
    <li class="card">
      <h2>{name}</h2>
      <p class="figure">{figure}</p>
      {before !== undefined && (
        <p class="change">
          {share === null ? (
            <span class="before">before: {beforeText || NONE}</span>
          ) : (
            <>
              <strong>
                <span aria-hidden="true">{share > 0 ? '▲ ' : share < 0 ? '▼ ' : ''}</span>
                {share === 0 ? 'as before' : signedPercent(share)}
              </strong>{' '}
              <span class="before">from {beforeText}</span>
            </>
          )}
        </p>
      )}
      {children}
    </li>
  );
}
