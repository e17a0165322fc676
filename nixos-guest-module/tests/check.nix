# Cases are `{ name = { got; want; }; }`. The result says how many hold, and what those that do not hold gave.
cases:
let
  names = builtins.attrNames cases;
  wrong = builtins.filter (name: cases.${name}.got != cases.${name}.want) names;
in
{
  passed = builtins.length names - builtins.length wrong;
  failures = map (name: { inherit name; } // cases.${name}) wrong;
}
