//! The frame of the page: its head and its style.

/// All colours are named here, once for light and once for dark.
pub(super) const STYLE: &str = r#"
:root{color-scheme:light dark;--page:#f6f7f9;--card:#ffffff;--ink:#14181f;--soft:#5a6472;--line:#dfe3e9;
--well:#eef1f5;--good:#0a7d4b;--good-well:#e2f4ea;--bad:#c0242d;--bad-well:#fce8e8;--open:#9a5b00;
--open-well:#fdf0d8;--answered:#2563c9;--other:#77808d;--band:#e8a33d;--accent:#2563c9}
@media (prefers-color-scheme:dark){:root{--page:#0f1217;--card:#181c23;--ink:#e9edf3;--soft:#9aa5b4;
--line:#2b323d;--well:#212732;--good:#4fd08f;--good-well:#12301f;--bad:#ff7b7f;--bad-well:#3a1719;
--open:#f2b75b;--open-well:#35270f;--answered:#78aaff;--other:#8f99a8;--band:#c98a2b;--accent:#78aaff}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",
Roboto,"Helvetica Neue",Arial,sans-serif;-webkit-text-size-adjust:100%}
main{max-width:1080px;margin:0 auto;padding:40px 24px 72px}
h1{font-size:32px;line-height:1.2;margin:2px 0 6px;letter-spacing:-.02em;overflow-wrap:anywhere}
h2{font-size:19px;margin:44px 0 6px;letter-spacing:-.01em}
h3{font-size:15px;margin:0 0 8px}
p{margin:0 0 10px}
.eyebrow{font-size:12px;font-weight:600;letter-spacing:.09em;text-transform:uppercase;color:var(--soft)}
.about,.note{color:var(--soft)}.about{font-size:17px;max-width:62ch}.note{font-size:13.5px;max-width:82ch}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:18px 20px;margin:12px 0}
.verdict{display:grid;grid-template-columns:auto 1fr;gap:20px;align-items:center;margin-top:22px;border-width:0;
padding:22px 24px}
.verdict .sign{width:64px;height:64px;border-radius:50%;display:grid;place-items:center}
.verdict .word{font-size:27px;font-weight:700;letter-spacing:-.015em;line-height:1.15}
.verdict p{margin:4px 0 0}.verdict ul{margin:8px 0 0;padding-left:18px}
.valid{background:var(--good-well)}.valid .word{color:var(--good)}.valid .sign{background:var(--good)}
.violated{background:var(--bad-well)}.violated .word{color:var(--bad)}.violated .sign{background:var(--bad)}
.unknown{background:var(--open-well)}.unknown .word{color:var(--open)}.unknown .sign{background:var(--open)}
.sign path{stroke:var(--card);stroke-width:5;fill:none;stroke-linecap:round;stroke-linejoin:round}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(118px,1fr));gap:10px;margin-top:12px}
.figure{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:12px 14px}
.figure b{display:block;font-size:23px;line-height:1.2;font-weight:650;letter-spacing:-.02em;
font-variant-numeric:tabular-nums}
.figure span{font-size:12.5px;color:var(--soft)}
.figure.alarm b{color:var(--bad)}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px}
th{font-size:12px;font-weight:600;color:var(--soft);text-align:left;white-space:nowrap}
th,td{padding:8px 12px 8px 0;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums;padding-right:18px}
.tag{display:inline-block;border-radius:6px;padding:1px 8px;font-size:12.5px;font-weight:600;white-space:nowrap}
.tag.good{color:var(--good);background:var(--good-well)}.tag.bad{color:var(--bad);background:var(--bad-well)}
.tag.open{color:var(--open);background:var(--open-well)}.tag.none{color:var(--soft);background:var(--well)}
.small{display:block;font-size:12.5px;color:var(--soft);max-width:44ch}
code,pre{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
code{overflow-wrap:anywhere}
pre{background:var(--well);border-radius:8px;padding:10px 14px;margin:8px 0 14px;white-space:pre-wrap;
overflow-wrap:anywhere}
ul.plain{list-style:none;margin:0 0 10px;padding:0;columns:3 240px;column-gap:28px}
ul.plain li{padding:2px 0;break-inside:avoid}
.chips{display:flex;flex-wrap:wrap;gap:6px;margin:14px 0 0}
svg{display:block;width:100%;height:auto;min-width:720px;font-family:inherit}
svg text{fill:var(--ink);font-size:12.5px}svg .soft{fill:var(--soft)}svg .strong{font-weight:650}
svg .grid{stroke:var(--line);stroke-width:1}svg .axis{stroke:var(--soft);stroke-width:1}
svg .lane{stroke:var(--line);stroke-width:2}svg .well{fill:var(--well)}
svg .arrow{stroke:var(--soft);stroke-width:1.6;fill:none}svg .head{fill:var(--soft)}
svg .lost{stroke:var(--bad);stroke-width:2.4;fill:none;stroke-linecap:round}svg .alarm{fill:var(--bad)}
svg .late{stroke:var(--band);stroke-width:2.4;fill:var(--card)}svg .latetext{fill:var(--open)}
svg .done{fill:var(--good)}svg .ask{fill:var(--accent)}svg .hollow{fill:var(--card);stroke:var(--soft);stroke-width:1.6}
svg .life{stroke:var(--open);stroke-width:1.4;stroke-dasharray:5 4}svg .lifetext{fill:var(--open)}
.answered{fill:var(--answered);fill-opacity:.6}.declined,.refused{fill:var(--other);fill-opacity:.75}
.indoubt{fill:var(--open)}.nothing{fill:var(--bad)}.rate{fill:var(--answered);fill-opacity:.35}
.band{fill:var(--band)}.down{fill:var(--bad);fill-opacity:.14}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:12.5px;color:var(--soft);margin:0 0 8px}
.legend span{white-space:nowrap}
.legend i{display:inline-block;width:10px;height:10px;border-radius:50%;margin-right:6px;vertical-align:-1px}
.legend .bar{border-radius:2px}
i.c-answered{background:var(--answered)}i.c-other{background:var(--other)}i.c-open{background:var(--open)}
i.c-bad{background:var(--bad)}i.c-band{background:var(--band)}i.c-good{background:var(--good)}
footer{margin-top:48px;padding-top:16px;border-top:1px solid var(--line);font-size:13px;color:var(--soft)}
@media (max-width:640px){main{padding:24px 16px 48px}h1{font-size:26px}.verdict{gap:14px;padding:18px}
.verdict .sign{width:46px;height:46px}.verdict .word{font-size:22px}}
@media print{:root{color-scheme:light;--page:#fff;--card:#fff;--ink:#000;--soft:#444;--line:#bbb;--well:#f2f2f2;
--good:#0a7d4b;--good-well:#eef8f2;--bad:#b01c25;--bad-well:#fdf0f0;--open:#8a5200;--open-well:#fdf5e6;
--answered:#1f56b3;--other:#666;--accent:#1f56b3}
body{font-size:11pt}main{max-width:none;padding:0}h2{break-after:avoid}.card,.figure,tr,svg{break-inside:avoid}
svg{min-width:0}.wide{overflow:visible}}
"#;

/// Everything up to the first word that is read.
pub(super) fn head(title: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src 'unsafe-inline'\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
    )
}
