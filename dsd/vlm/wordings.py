"""Words by which models name fields and say same, different, yes and no, in the languages seen most.

The names of fields are compared in lower case. The patterns are regular expressions for texts in lower case.
"""

_FIELDS = {
    "subject": "main subject|common subject|主体|主题|被写体|主題|motiv|hauptmotiv|sujet",
    "first": "first image|first picture|image 1|picture 1|第一张|第一張|1枚目|erstes|erstes bild|première|"
    "premier",
    "second": "second image|second picture|image 2|picture 2|第二张|第二張|2枚目|zweites|zweites bild|"
    "deuxième|seconde",
    "differences": "difference|differences of the subject|差异|区别|違い|相違点|unterschiede|différences",
    "scores": "score|ratings|评分|分数|スコア|得点|bewertung|bewertungen|punkte",
    "verdict": "final verdict|conclusion|judgment|结论|判断|判定|結論|urteil|fazit|verdikt",
    "same": "same subject|is same|is same subject|are same|identical",
}
LABELS = {field: tuple(words.split("|")) for field, words in _FIELDS.items()}
PARTS = {
    "shape": ("form", "forme", "形状", "形"),
    "color": ("colour", "colors", "colours", "farbe", "couleur", "颜色", "色"),
    "texture": ("textur", "textures", "纹理", "質感", "质感"),
    "face": ("gesicht", "visage", "面部", "脸部", "顔"),
    "details": ("detail", "détails", "细节", "細部"),
    "pattern": ("patterns", "muster"),
}
CAPTIONS = (
    "caption", "instruction", "edit instruction", "edit request", "description", "request", "text", "edit",
    "prompt", "answer", "output", "assistant", "option 1", "option a", "指令", "描述", "说明", "标题",
    "キャプション", "指示", "beschreibung",
)  # fmt: skip
CAPTION = "|".join(CAPTIONS)
ANSWERS = ("the answer", "result", "final answer", "response", "verdict")
NUMBERS = {  # a part that the subject does not have scores 4
    "n/a": 4, "na": 4, "not applicable": 4, "none": 4, "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4,
}  # fmt: skip

SAME = (
    r"same|identical|gleich|identisch|dasselbe|derselbe|dieselbe|même|identique|mism[oa]|stess[oa]|相同|一样|"
    r"同じ|同一"
)
DIFFERENT = (
    r"different|differ|differs|distinct|dissimilar|unequal|verschieden\w*|unterschiedlich\w*|anders|"
    r"différente?s?|diferentes?|distint[oa]s?|divers[oaie]|不同|不一样|不相同|異なる|異なります|違う|違います|別"
)
NOT = r"not|n't|never|nicht|kein\w*|pas|non?|不|ない|isn|aren"
HEDGE = (
    r"\?|\b(?:possibly|likely|unlikely|probably|probable|maybe|perhaps|might|could|may|unsure|uncertain|unclear|"
    r"unknown|sure|hard|difficult|cannot|can't|similar|nearly|almost|mostly|partly|partially|seem\w*|appear\w*|"
    r"either|inconclusive|undetermined|depends?|if|unless|whether|debatable|arguabl[ey]|vielleicht|"
    r"wahrscheinlich|vermutlich|peut-être|probablement)\b|可能|也许|多分|おそらく|"
    rf"(?:{SAME})\W*(?:/|\||or\b|oder\b|ou\b)\W*(?:{DIFFERENT})"
)
BARE = rf"\W*(?:{NOT}|the|they are|is|\s)*(?:{SAME}|{DIFFERENT})\W*"  # a verdict and nothing else
YES = r"yes|yeah|ja|oui|sí|是|是的|对|はい"
NO = r"no|nope|nein|non|不|不是|否|いいえ"
YES_OR_NO = rf"(?:(?P<yes>{YES})|(?P<no>{NO}))"
TEMPLATE = r"(?i)\W*same or different\W*$"  # the form of the question, repeated
REFUSAL = (
    r"(?i)\b(?:i(?:'m| am) sorry|sorry, (?:but )?i|i (?:can(?:no|')t|cannot|won't)|"
    r"i(?:'m| am) (?:not able|unable)|"
    r"as an ai|content (?:policy|management)|usage policies|safety system|was (?:flagged|filtered)|"
    r"unable to)\b"
)
NO_CAPTION = (
    r"(?i)\W*(?:error\b|抱歉|对不起|很抱歉|申し訳|could you|can you|please (?:share|provide|upload|send)|"
    r"[\[<][^\[\]<>]+[\]>]$|n/?a$|none$|$)|(?:\w+ )*error$|.*\b(?:image|picture|photo|upload)\b.*\?$"
)
REMARK = (
    r"(?i)\W*(let me know|i hope|hope this|note\b|feel free|if you|or, alternatively|alternatively|sure|"
    r"certainly|here(?:'s| is| are))"
)
_SHOWN = r"(?:(?:image|picture|photo|photograph|illustration|drawing)s? )"
PREFACE = (  # what a description begins with, though a prompt should not
    rf"(?i)^(?:this is|(?:the|this|your) {_SHOWN}(?:shows|depicts|features|is of|contains)|"
    rf"in (?:the|this) (?:image|picture|photo|photograph),?(?: (?:there is|we see|you see|i see))?)\s+(?=\S)"
)
QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "«": "»", "「": "」", "『": "』", "„": "“"}
