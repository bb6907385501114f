"""Made corpora of which it is known what should be dropped."""

import json
import random
from pathlib import Path

NOUNS = (
    "river engine garden letter window market teacher village signal harbor mirror valley".split()
)
VERBS = "carries follows measures repairs watches collects answers divides borrows protects".split()
PLACES = "near the station, behind the old mill, on a quiet island, under the bridge".split(", ")


def prose(rng: random.Random, sentences: int = 12) -> str:
    """Returns sentences that pass every rule of quality and repeat little."""
    return " ".join(
        f"The {rng.choice(NOUNS)} of {rng.choice(NOUNS)} {rng.randrange(10_000)} "
        f"{rng.choice(VERBS)} that {rng.choice(NOUNS)} and the {rng.choice(NOUNS)} with "
        f"{rng.choice(NOUNS)} {rng.choice(PLACES)}."
        for _ in range(sentences)
    )


def write_jsonl(path: Path, texts: list[str]) -> Path:
    """Writes one document a line."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def changed(rng: random.Random, text: str, share: float) -> str:
    """Returns a text with a share of its words replaced by words of no other text."""
    words = text.split()
    for n in rng.sample(range(len(words)), round(share * len(words))):
        words[n] = f"w{rng.randrange(10**9)}"
    return " ".join(words)


JAPANESE = """\
朝早く駅へ向かう道で、近所のパン屋の前を通ると、焼きたての香りが冷たい空気に混ざっていた。
店主は窓の内側から軽く手を振り、私も会釈を返して歩き続けた。
その日は図書館で古い新聞を調べる約束があり、少し急がなければならなかった。
電車の中では学生たちが試験の話をしていて、隣の老人は文庫本を静かにめくっている。
川を渡るとき、水面に反射した光が天井を揺らし、しばらく見とれてしまった。
目的の記事は三十年前の洪水についてのもので、写真には腰まで水に浸かった商店街が写っている。
司書の女性は当時まだ小学生だったそうで、屋根の上から助けを待った夜の寒さを語ってくれた。
「堤防ができてからは安心ですが、雨の音を聞くと今でも目が覚めます」と彼女は笑った。
午後になって外へ出ると、空はすっかり晴れ、濡れた石畳が乾き始めている。
帰り道、パン屋で最後の一つになった胡桃パンを買い、温かい紙袋を抱えて坂を上った。
家に着くころには日が傾き、遠くの山が薄い紫色に染まっていた。
夕食の支度をしながら、聞いた話を忘れないうちに手帳へ書き留めておこうと思う。
"""
