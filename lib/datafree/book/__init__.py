"""From notebooks to pages: parameters, runs, figures, tables, generated pages, and the build."""
