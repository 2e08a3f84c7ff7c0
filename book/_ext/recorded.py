"""`:::{recorded} recipe`: a table of what the runs on record measured, drawn when pages are rendered."""

from pathlib import PurePosixPath

from docutils import nodes
from docutils.parsers.rst import Directive, directives

from datafree.book import recorded
from datafree.evidence import record


class Recorded(Directive):
    """Argument: path of a metric of this chapter, or of `notebook`. Its rows, as mean and deviation over the runs."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec = dict.fromkeys(("notebook", "head", "value", "caption", "profile"), directives.unchanged_required)

    def run(self):
        env = self.state.document.settings.env
        found = record.read_all()
        for one in found:
            env.note_dependency(str(one["path"]))
        said = {"notebook": PurePosixPath(env.docname).name, "head": "what", "value": "value"} | self.options
        return [nodes.raw("", recorded.table(found, path=self.arguments[0], **said), format="html")]


def setup(app):
    app.add_directive("recorded", Recorded)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
