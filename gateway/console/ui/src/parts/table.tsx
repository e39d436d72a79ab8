/** A table that sorts by its columns. */

import type { ComponentChildren } from 'preact';
import { compare, type Exact } from '../exact.ts';

export interface Column<Row> {
  id: string;
  name: string;
  numeric?: boolean;
  /** what it sorts by; null comes last */
  value?: (row: Row) => Exact | null;
  cell: (row: Row) => ComponentChildren;
  total?: ComponentChildren;
}

interface Props<Row> {
  title: string;
  columns: Column<Row>[];
  rows: Row[];
  keyOf: (row: Row) => string;
  /** rows that stay at the end whatever it sorts by */
  isLast: (row: Row) => boolean;
  sort: string;
  usual: string;
  onSort: (sort: string) => void;
}

function ordered<Row>(rows: Row[], column: Column<Row> | undefined, falling: boolean, isLast: (row: Row) => boolean): Row[] {
  const value = column?.value;
  if (!value) return rows;
  const by = (one: Row, other: Row): number => {
    const a = value(one);
    const b = value(other);
    if (a === null || b === null) return a === b ? 0 : a === null ? 1 : -1;
    const order = column.numeric ? compare(a, b) : String(a).localeCompare(String(b));
    return falling ? -order : order;
  };
  return [...rows.filter((row) => !isLast(row)).sort(by), ...rows.filter(isLast)];
}

export function Table<Row>({ title, columns, rows, keyOf, isLast, sort, usual, onSort }: Props<Row>) {
  const chosen = sort || usual;
  const falling = chosen.startsWith('-');
  const id = chosen.replace(/^-/, '');
  const shown = ordered(rows, columns.find((column) => column.id === id), falling, isLast);
  const hasTotals = columns.some((column) => column.total !== undefined);
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={title}>
      <table>
        <caption>{title}</caption>
        <thead>
          <tr>
            {columns.map((column) => {
              const mine = column.id === id;
              const order = mine ? (falling ? 'descending' : 'ascending') : 'none';
              if (!column.value) {
                return (
                  <th scope="col" class={column.numeric ? 'number' : ''}>
                    {column.name}
                  </th>
                );
              }
              const next = mine ? (falling ? column.id : `-${column.id}`) : column.numeric ? `-${column.id}` : column.id;
              return (
                <th scope="col" class={column.numeric ? 'number' : ''} aria-sort={order}>
                  <button type="button" class="sort" onClick={() => onSort(next)}>
                    {column.name}
                    <span aria-hidden="true">{mine ? (falling ? ' ▼' : ' ▲') : ''}</span>
                  </button>
                </th>
              );
            })}
          </tr>
        </thead>
        <tbody>
          {shown.map((row) => (
            <tr key={keyOf(row)}>
              {columns.map((column, index) =>
                index === 0 ? (
                  <th scope="row">{column.cell(row)}</th>
                ) : (
                  <td class={column.numeric ? 'number' : ''}>{column.cell(row)}</td>
                ),
              )}
            </tr>
          ))}
        </tbody>
        {hasTotals && (
          <tfoot>
            <tr>
              {columns.map((column, index) =>
                index === 0 ? <th scope="row">{column.total}</th> : <td class={column.numeric ? 'number' : ''}>{column.total}</td>,
              )}
            </tr>
          </tfoot>
        )}
      </table>
    </div>
  );
}
