use super::harmless;
use super::html::Escaped;

#[test]
fn nothing_from_outside_becomes_markup() {
    let text = "<script>alert('1')</script> & \"x\"\n\u{1b}[2J";
    let escaped = Escaped(text).to_string();
    assert_eq!(escaped, "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; &quot;x&quot;  [2J");
    assert_eq!(harmless("a\tb"), "a b");
}
