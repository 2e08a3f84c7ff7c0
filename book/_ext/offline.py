"""Keep the pages free of other hosts: drop the scripts that only serve live code, which this book does not use."""


def _without_live_code(app, page, template, context, doctree):
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if "sphinx-thebe" not in str(getattr(script, "filename", script))
        and "THEBE_JS_URL" not in (getattr(script, "attributes", {}).get("body") or "")
    ]


def setup(app):
    app.connect("html-page-context", _without_live_code, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
