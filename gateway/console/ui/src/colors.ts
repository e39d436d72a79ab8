/** Colours that people with any kind of colour vision tell apart (Okabe and Ito, Tol), on light and on dark. */

export const GROUPS = ['#0072b2', '#e69f00', '#009e73', '#cc79a7', '#56b4e9', '#d55e00', '#999933', '#aa4499'];

export const SMALLER = '#7c8591';
export const OTHER = '#aab2bd';

export const STATUS = { error: '#d55e00', timeout: '#e69f00', throttled: '#56b4e9' };
export const LINES = { p50: '#0072b2', p95: '#e69f00', p99: '#cc79a7' };
