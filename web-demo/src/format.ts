/** Numbers as the page writes them: short, and of steady width with tabular figures. */

const grouped = new Intl.NumberFormat("en-US");

export function formatCount(value: number): string {
  return grouped.format(value);
}

export function formatCpu(percent: number): string {
  return percent < 1000 ? `${percent.toFixed(1)}%` : `${formatCount(Math.round(percent))}%`;
}

export function formatMemory(megabytes: number): string {
  if (megabytes < 1024) return `${megabytes.toFixed(megabytes < 10 ? 1 : 0)} MB`;
  const gigabytes = megabytes / 1024;
  return gigabytes < 1024 ? `${threeDigits(gigabytes)} GB` : `${threeDigits(gigabytes / 1024)} TB`;
}

function threeDigits(value: number): string {
  return value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0);
}

export function formatAge(milliseconds: number): string {
  const seconds = Math.floor(milliseconds / 1000);
  if (seconds < 1) return "now";
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

export function formatRate(perSecond: number): string {
  return perSecond > 0 && perSecond < 9.95 ? perSecond.toFixed(1) : formatCount(Math.round(perSecond));
}
