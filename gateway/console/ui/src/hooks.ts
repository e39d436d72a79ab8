/** Answers that follow the view: asked again when it changes, and kept in sight until the next one is there. */

import { useCallback, useEffect, useRef, useState } from 'preact/hooks';
import { getJson, Refused, type Problem } from './api.ts';

export interface Asked<T> {
  data: T | null;
  problem: Problem | null;
  /** since when the answer is waited for, null where it is not */
  waitingSince: number | null;
  /** when it came */
  at: number;
  /** of which path it is */
  of: string | null;
}

/** Ask for a path whenever it or the turn changes. null: ask for nothing. */
export function useAnswer<T>(path: string | null, turn: number): Asked<T> {
  const [asked, setAsked] = useState<Asked<T>>({ data: null, problem: null, waitingSince: null, at: 0, of: null });
  useEffect(() => {
    if (path === null) {
      setAsked({ data: null, problem: null, waitingSince: null, at: 0, of: null });
      return;
    }
    const abort = new AbortController();
    setAsked((before) => ({ ...before, waitingSince: Date.now() }));
    getJson<T>(path, abort.signal).then(
      (data) => setAsked({ data, problem: null, waitingSince: null, at: Date.now(), of: path }),
      (error: unknown) => {
        if (abort.signal.aborted) return;
        if (!(error instanceof Refused)) throw error;
        const { problem } = error;
        setAsked({ data: null, problem, waitingSince: null, at: Date.now(), of: path });
      },
    );
    return () => abort.abort();
  }, [path, turn]);
  // The effect runs after the page is drawn: until then what is shown is of another path already.
  const behind = path !== null && asked.of !== path && asked.waitingSince === null;
  return behind ? { ...asked, waitingSince: Date.now() } : asked;
}

/** The time of now, again every so many milliseconds. */
export function useNow(every: number): number {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), every);
    return () => clearInterval(timer);
  }, [every]);
  return now;
}

/** A value once it has not changed for so many milliseconds. */
export function useSettled<T>(value: T, delay: number): T {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), delay);
    return () => clearTimeout(timer);
  }, [value, delay]);
  return settled;
}

/** Whether what is shown is dark. */
export function useDark(theme: string): boolean {
  const query = useRef(window.matchMedia('(prefers-color-scheme: dark)'));
  const [dark, setDark] = useState(query.current.matches);
  const follow = useCallback(() => setDark(query.current.matches), []);
  useEffect(() => {
    const list = query.current;
    list.addEventListener('change', follow);
    return () => list.removeEventListener('change', follow);
  }, [follow]);
  return theme === 'auto' ? dark : theme === 'dark';
}
