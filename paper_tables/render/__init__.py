"""A comparison, or the verdicts on the claims, as a sheet, and the sheet as terminal table, Markdown, LaTeX.

`cells.comparison_sheet` and `claims.claims_sheet` make sheets, `sheet_terminal`, `sheet_markdown` and
`sheet_latex` draw them; `as_data` and `claims` give JSON and CSV.
"""
