from aquarat_core.evaluation import document as doc

HOSTILE = '<img src=x onerror="alert(1)"> [a](javascript:b) *c* | `d` _e_ rl_checkpoint'


def test_every_kind_of_block_is_escaped_in_html() -> None:
    blocks = (
        doc.Heading(HOSTILE),
        doc.Paragraph(HOSTILE, "warning"),
        doc.Tiles((doc.Tile(HOSTILE, HOSTILE, HOSTILE),)),
        doc.Table((HOSTILE, "n"), ((HOSTILE, "1"),), caption=HOSTILE),
        doc.Figure("<svg></svg>", "data:image/png;base64,AA==", HOSTILE),
        doc.Sample(HOSTILE, "no answer", HOSTILE, HOSTILE),
    )
    html = doc.Document(HOSTILE, HOSTILE, blocks).to_html()
    assert "<img" not in html
    assert (
        html.count("&lt;img src=x onerror=&quot;alert(1)&quot;&gt;") == 16
    )  # the page and the table say one text twice


def test_markdown_text_is_literal() -> None:
    text = doc.Document("t", "s", (doc.Paragraph(HOSTILE), doc.Table(("h",), ((HOSTILE,),)))).to_markdown()
    literal = '&lt;img src=x onerror="alert(1)"&gt; \\[a\\](javascript:b) \\*c\\* \\| \\`d\\` \\_e\\_ rl_checkpoint'
    assert text == f"# t\n\ns\n\n{literal}\n\n| h |\n| :-- |\n| {literal} |\n"


def test_fence_outgrows_the_backticks_inside() -> None:
    text = doc.Document("t", "s", (doc.Sample("q", "wrong", "a ````` b", "plain"),)).to_markdown()
    assert "``````text\na ````` b\n``````" in text
    assert "```text\nplain\n```" in text


def test_a_caption_wraps_with_the_page_and_not_with_its_table() -> None:
    html = doc.Document("t", "s", (doc.Table(("h",), (("1",),), caption="What it says."),)).to_html()
    assert '<p class="caption">What it says.</p><div class="scroll" ' in html
    assert '<p class="caption">' not in doc.Document("t", "s", (doc.Table(("h",), (("1",),)),)).to_html()
