//! Bounds of hostile templates, and where the output's bytes came from. (What templates mean is tested against
//! Python's jinja2 in tests/text/jinja.rs.)

use std::rc::Rc;

use serde_json::{Value as Json, json};

use super::interpreter::Interpreter;
use super::{Limits, Template, Variable, json as values};

/// On a stack that just suffices for templates, and on one that does not, as of a host's smallest threads.
fn on_small_stacks<T: Send + PartialEq + std::fmt::Debug>(run: impl Fn() -> T + Send + Sync) -> T {
    let on = |bytes| {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(bytes).spawn_scoped(scope, &run);
            thread.unwrap().join().unwrap()
        })
    };
    let result = on(256 << 10);
    assert_eq!(on(64 << 10), result);
    result
}

fn render(source: &str, message: &Json) -> crate::Result<super::Rendered> {
    let variables = [Variable { name: "m", value: message, from_message: true }];
    Template::parse(source)?.render(&variables, Limits::new(1, values::size(message)), None)
}

/// The error of a template that must fail, on a small stack.
fn fails(source: &str) -> String {
    let error = on_small_stacks(|| match render(source, &Json::Null) {
        Err(error @ crate::Error::Template(_)) => Ok(error.to_string()),
        other => Err(other.map(|out| out.text.len()).map_err(|error| error.to_string())),
    });
    error.unwrap_or_else(|other| panic!("{}: {other:?}", source.chars().take(60).collect::<String>()))
}

#[test]
fn memory_is_bounded_before_it_is_asked_for() {
    for source in [
        "{{ 'a' * 10**9 }}",
        "{{ 'a' * 10**40 }}",
        "{{ [1] * 10**9 }}",
        "{{ (1,) * 10**12 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (10**9, 1) }}",
        "{{ '%1000000000s' % 'a' }}",
        "{{ 'a'.center(10**9) }}",
        "{{ 'a'.ljust(10**9) }}",
        "{{ '1'.zfill(10**9) }}",
        "{{ '\\t'.expandtabs(10**9) }}",
        "{{ 'a' | center(10**9) }}",
        "{{ 'a\\nb' | indent(10**9) }}",
        "{{ '{:>1000000000}'.format(1) }}",
        "{{ '{:>{}}'.format('a', 10**9) }}",
        "{{ [1] | tojson(indent=10**9) }}",
        "{{ [1] | slice(10**9) | list }}",
        "{{ 'abcdefgh' | replace('', 'x' * 10**7) }}",
        "{{ ('x' * 10**7).join('abcdefghijk') }}",
        "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s=['a']) %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s='a' * 1000) %}{% for i in range(99) %}{% set ns.s = [ns.s, ns.s] | join %}{% endfor %}",
        "{% set ns = namespace(s='a' * 1000) %}{% for i in range(99) %}{% set ns.s = '%s%s' % (ns.s, ns.s) %}{% endfor %}",
        "{% set ns = namespace(s='a' * 1000) %}{% for i in range(99) %}{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}{% endfor %}",
    ] {
        let error = fails(source);
        assert!(error.contains("too large") || error.contains("wrote more"), "{source}: {error}");
    }
}

#[test]
fn instructions_are_bounded() {
    for source in [
        "{{ [1] | batch(10**9, 0) | list }}",
        "{% set ns = namespace(s=['a']) %}{% for i in range(99) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(s=['a']) %}{% for i in range(99) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s | tojson }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set l = range(99999) | list %}{% for a in l %}{{ a in l }}{% endfor %}",
        "{% set s = 'a' * 9999999 %}{% for a in range(99999) %}{% set x = s.find('b') %}{% endfor %}",
        "{% set s = 'a' * 9999999 %}{% for a in range(99999) %}{% set x = s == s ~ '' %}{% endfor %}",
        "{% set s = 'é' * 999999 %}{% for a in range(99999) %}{% set x = s[-1] %}{% endfor %}",
        "{% set ns = namespace(s=['a']) %}{% for i in range(99) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}\
         {% set ns.t = ['a'] %}{% for i in range(99) %}{% set ns.t = [ns.t, ns.t] %}{% endfor %}{{ ns.s == ns.t }}",
        "{% set ns = namespace(n=3) %}{% for i in range(99999) %}{% set ns.n = ns.n * ns.n % 10**4000 + 7 %}{% endfor %}",
    ] {
        let error = fails(source);
        assert!(error.contains("instructions"), "{source}: {error}");
    }
}

/// What a few instructions ask for, over and over, must count as the work that it is.
#[test]
fn work_on_long_values_is_counted() {
    let pairs = "{% set d = dict(range(2000) | map('string') | batch(2) | list) %}";
    let names = |n: usize, form: fn(usize) -> String| (0..n).map(form).collect::<String>();
    let repeated = |set_up: &str, work: &str| {
        format!("{set_up}{{% for i in range(99999) %}}{{% set x = {work} %}}{{% endfor %}}")
    };
    for source in [
        repeated("{% set s = 'aé' * 99999 %}", "s | lower"),
        repeated("{% set s = 'aé' * 99999 %}", "s | urlencode"),
        repeated("{% set s = '<\\n' * 99999 %}", "s | escape"),
        repeated("{% set s = '\\n\"' * 99999 %}", "s | tojson"),
        repeated("{% set s = '\\n' * 99999 %}", "s | indent"),
        repeated("{% set s = '< ' * 99999 %}", "s | striptags"),
        repeated("{% set s = 'aé' * 99999 %}", "s is upper"),
        repeated("{% set s = 'aé' * 99999 %}", "s | truncate(199000) == s"),
        repeated("{% set s = ' ' * 999999 %}", "s | int"),
        repeated("{% set s = ' ' * 999999 %}", "s | float"),
        repeated("{% set s = '\\u0969' * 2000 %}", "s | int"),
        repeated("", "'%.4000g' % 5e-324"),
        repeated("", "'{:f}'.format(1e300)"),
        repeated("", "1 | round(-4000)"),
        repeated("{% set s = '%Y' * 2000 %}", "strftime_now(s)"),
        repeated("{% set k = 'a' * 999999 %}{% set s = '%(' ~ k ~ ')s' %}{% set d = {k: ''} %}", "s % d"),
        repeated("{% set s = 'a' * 99999 %}{% set t = ((s ~ 'b')[1:],) * 99 %}", "s.startswith(t)"),
        repeated(pairs, "''.format(**d)"),
        repeated(pairs, "''.format_map(d)"),
        repeated("{% set s = 'a.' * 999 ~ 'a' %}", "[1] | map(attribute=s, default=1) | list"),
        repeated("{% set l = ['ab:', 'cd:'] * 999 %}", "'x y z' | urlize(extra_schemes=l)"),
        repeated(&format!("{{% macro m({}z) %}}{{% endmacro %}}", names(2000, |n| format!("a{n},"))), "m()"),
        format!(
            "{{% for i in range(99999) %}}{{% continue %}}{}{{% endfor %}}",
            names(2000, |n| format!("{{% set a{n} = 1 %}}"))
        ),
        format!(
            "{{% for i in range(9) %}}{}{{% for j in range(99999) %}}{{% set x = a1999 %}}{{% endfor %}}{{% endfor %}}",
            names(2000, |n| format!("{{% set a{n} = 1 %}}"))
        ),
    ] {
        let limits = Limits { steps: 1_000_000, ..Limits::new(1, 0) };
        let start = std::time::Instant::now();
        let error = Template::parse(&source).unwrap().render(&[], limits, None).unwrap_err().to_string();
        let short: String = source.chars().take(160).collect();
        println!("{:.2} s: {short}", start.elapsed().as_secs_f64());
        assert!(error.contains("instructions"), "{short}: {error}");
    }
    // A word longer than its lines is not gone through for each of them.
    assert_eq!(render("{{ ('a' * 100000) | wordwrap(1) | length }}", &Json::Null).unwrap().text, "199999");
    // Faults that iterators keep count as memory.
    let source = "{% set d = {'a' * 999999: 1} %}{% set ns = namespace(l=[]) %}{% for i in range(99) %}\
                  {% set ns.l = ns.l + [[1] | map('abs', **d)] %}{% endfor %}";
    assert!(fails(source).contains("too large"), "{}", fails(source));
}

#[test]
fn numbers_are_bounded() {
    for source in
        ["{{ 10**(10**10) }}", "{{ 9**(9**(9**9)) }}", "{{ (10**9000) ** 9000 }}", "{{ 2 ** 99999 }}"]
    {
        let error = fails(source);
        assert!(error.contains("too large"), "{source}: {error}");
    }
    assert!(fails("{{ '%.1000000000f' % 1 }}").contains("too large"));
    assert!(fails("{{ '{:.1000000000f}'.format(1.5) }}").contains("too large"));
    assert!(fails(&"a".repeat((1 << 20) + 1)).contains("too large"));
    let ends = "range(-9223372036854775808, 9223372036854775807, 9223372036854775807)";
    let index = render(&format!("{{{{ {ends}.index(9223372036854775806) }}}}"), &Json::Null);
    assert_eq!(index.unwrap().text, "2");
    assert!(fails("{{ range(10**12) }}").contains("Range too big"));
    assert!(fails("{% for a in range(0, 10**19) %}{% endfor %}").contains("Range too big"));
}

#[test]
fn recursion_is_bounded_on_small_stacks() {
    let deep = |open: &str, inside: &str, close: &str| {
        format!("{{{{ {}{inside}{} }}}}", open.repeat(20_000), close.repeat(20_000))
    };
    let sources = [
        deep("(", "1", ")"),
        deep("[", "1", "]"),
        deep("{1:", "1", "}"),
        deep("-", "1", ""),
        deep("a[", "1", "]"),
        deep("f(", "1", ")"),
        deep("1 if ", "1", " else 1"),
        deep("1 if 1 else ", "1", ""),
        deep("'a'.join(", "'a'", ")"),
        deep("x is eq(", "1", ")"),
        deep("x | default(", "1", ")"),
        "{% if true %}".repeat(20_000),
        "{% for a in [1] %}".repeat(20_000),
        "{% macro f() %}".repeat(20_000),
        "{% set x %}".repeat(20_000),
        format!("{{% set {}a{} = 1 %}}", "(".repeat(20_000), ")".repeat(20_000)),
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".to_owned(),
        "{% macro f() %}{% for a in [1] %}{% if true %}{{ [f()] | join }}{% endif %}{% endfor %}{% endmacro %}{{ f() }}".to_owned(),
        "{% macro f() %}{% call f() %}{{ caller() }}{% endcall %}{% endmacro %}{{ f() }}".to_owned(),
        "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}".to_owned(),
        "{% block b %}{{ self.b() }}{% endblock %}".to_owned(),
        "{% macro f(a=f()) %}{% endmacro %}{% set f = f %}{{ f() }}".to_owned(),
    ];
    for source in &sources {
        let error = fails(source);
        let short: String = source.chars().take(60).collect();
        assert!(error.contains("recursion"), "{short}: {error}");
    }
    // Values nested by a loop, through which dropping, printing and comparing recurse.
    for source in [
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}",
        "{% set ns = namespace(x=1) %}{% for i in range(99999) %}{% set ns.x = {1: ns.x} %}{% endfor %}",
        "{% set ns = namespace(x=cycler(1)) %}{% for i in range(99999) %}{% set ns.x = cycler(ns.x) %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] | map('list') %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(99999) %}{% set ns.x = joiner(ns.x) %}{% endfor %}",
    ] {
        let error = fails(source);
        assert!(error.contains("too deep"), "{source}: {error}");
    }
}

#[test]
fn what_is_deep_but_allowed_fits_small_stacks() {
    let nest = "{% set ns = namespace(x=[], y=[]) %}{% for i in range(140) %}{% set ns.x = [ns.x] %}\
                {% set ns.y = [ns.y] %}{% endfor %}";
    for (source, wanted) in [
        (format!("{nest}{{{{ ns.x | string | length }}}}"), "282"),
        (format!("{nest}{{{{ ns.x | tojson | length }}}}"), "282"),
        (format!("{nest}{{{{ ns.x == ns.y }}}}"), "True"),
        (format!("{nest}{{{{ ns.x < ns.y }}}}"), "False"),
        (format!("{nest}{{{{ ns.x | pprint | length }}}}"), "282"),
        // A schema's depth, written by a macro that calls itself.
        (
            "{% macro f(x) %}{% if x is mapping %}{% for k, v in x.items() %}{{ '(' ~ f(v) ~ ')' }}{% endfor %}\
             {% else %}{{ x }}{% endif %}{% endmacro %}{% set ns = namespace(x=7) %}{% for i in range(30) %}\
             {% set ns.x = {'a': ns.x} %}{% endfor %}{{ f(ns.x) | length }}"
                .to_owned(),
            "61",
        ),
        // Long, but not deep.
        (format!("{{{{ ({} 'a') | length }}}}", "'a' + ".repeat(10_000)), "10001"),
        (format!("{{{{ ({} 'a') | length }}}}", "'a' ~ ".repeat(10_000)), "10001"),
        (format!("{{{{ 'a'{} }}}}", " | trim".repeat(10_000)), "a"),
        (format!("{{{{ {} 1 }}}}", "0 or ".repeat(10_000)), "1"),
        (format!("{{{{ {} 1 }}}}", "not ".repeat(10_000)), "True"),
        (format!("{{% if 0 %}}{}{{% else %}}b{{% endif %}}", "{% elif 0 %}a".repeat(10_000)), "b"),
    ] {
        let text = on_small_stacks(|| render(&source, &Json::Null).map(|out| out.text).map_err(|error| error.to_string()));
        let short: String = source.chars().take(60).collect();
        assert_eq!(text.unwrap_or_else(|error| error), wanted, "{short}");
    }
    // As deep as a client's JSON may be.
    let mut value = json!(1);
    for _ in 0..120 {
        value = json!([value]);
    }
    let text = on_small_stacks(|| render("{{ m | tojson }}{{ m }}", &value).unwrap().text.len());
    assert_eq!(text, 2 * 241);
}

#[test]
fn values_that_hold_themselves_are_freed() {
    for source in [
        "{% set ns = namespace() %}{% set ns.x = ns %}{% set ns.y = [ns] %}",
        "{% for i in range(9) %}{% macro f() %}{{ f }}{% endmacro %}{% endfor %}",
        "{% set ns = namespace() %}{% for i in [1] %}{% set ns.l = loop %}{% set x = loop.changed(loop) %}{% endfor %}",
        "{% set ns = namespace() %}{% for i in [1] %}{% set ns.l = loop %}{% endfor %}{{ ns.l.changed(ns.l) }}",
        "{% set ns = namespace(x=0) %}{% for i in range(9999) %}{% set ns.x = namespace(x=ns.x) %}{% endfor %}",
        "{% set ns = namespace(x=0) %}{% for i in range(9999) %}{% for j in [ns.x] %}{% set ns.x = loop %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x=0) %}{% for i in range(999) %}{% macro f() %}{{ i }}{% endmacro %}{% set o = ns.x %}{% set ns.x = f %}{% endfor %}",
        "{% for i in [1] %}{% call(x) range(3) %}{% endcall %}{% endfor %}",
        "{% macro f() %}{% set me = caller %}{{ me() }}{% endmacro %}{% for i in range(3) %}{% call f() %}{{ i }}{% endcall %}{% endfor %}",
        "{{ [1, 2] | map('foo') }}",
        // Each holds the one before it.
        "{% set ns = namespace(x=0) %}{% for i in range(9999) %}{% set o = ns.x %}{% for j in [1] %}{% set ns.x = loop %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x={}[0]) %}{% for i in range(9999) %}{% set ns.x = {}[ns.x] %}{% endfor %}",
    ] {
        on_small_stacks(|| {
            let Ok(template) = Template::parse(source) else { return };
            let mut interpreter = Interpreter::new(&template.program, Limits::new(1, 0), None).unwrap();
            let rt = interpreter.rt().clone();
            interpreter.set_variable("m", values::from_json(&rt, &json!({"a": ["b"]}), true).unwrap());
            drop(interpreter.run());
            assert_eq!(Rc::strong_count(&rt), 1, "{source}");
        });
    }
}

#[test]
fn memory_that_is_free_again_counts_no_longer() {
    // 2 GB pass through the 64 MiB.
    let source = "{% for i in range(1000) %}{% set s = 'a' * 2000000 %}{% set t = s ~ 'b' %}{% endfor %}ok";
    assert!(render(source, &Json::Null).unwrap_err().to_string().contains("instructions"));
    let source = "{% for i in range(10) %}{% set s = 'a' * 2000000 %}{% set t = s ~ 'b' %}{% endfor %}ok";
    assert_eq!(render(source, &Json::Null).unwrap().text, "ok");
}

/// The output with « » around what came from the message.
fn marked(source: &str, message: &Json) -> String {
    let out = render(source, message).unwrap();
    let mut text = String::new();
    let mut at = 0;
    for range in out.from_messages {
        assert!(at <= range.start && range.start < range.end, "{source}: {range:?}");
        text += &format!("{}«{}»", &out.text[at..range.start], &out.text[range.clone()]);
        at = range.end;
    }
    text + &out.text[at..]
}

#[test]
fn bytes_from_messages_stay_known() {
    let message = json!({"role": "user", "text": " Ab é c ", "list": ["x", "y"], "key<": 1, "n": 7});
    for (source, wanted) in [
        ("[{{ m.text }}]", "[« Ab é c »]"),
        ("{{ '[' ~ m.role ~ ']' ~ m.n }}", "[«user»]7"),
        ("{{ '[' + m.role + ']' }}", "[«user»]"),
        ("{{ ('[' + m.role + ']')[1:-2] }}|{{ ('[' + m.role + ']')[::-1] }}", "«use»|]«resu»["),
        ("{{ ('  [' ~ m.text ~ ']  ') | trim }}", "[« Ab é c »]"),
        (
            "{{ m.text.strip() }}{{ m.text | upper }}{{ ('a' ~ m.role) | capitalize }}",
            "«Ab é c AB É C »A«user»",
        ),
        ("{{ m.text.split() }}", "['«Ab»', '«é»', '«c»']"),
        ("{{ ('1,' ~ m.role ~ ',2').split(',') | join('-') }}", "1-«user»-2"),
        ("{{ ('a-' ~ m.role).replace('-', m.role).replace('u', 'U') }}", "aU«ser»U«ser»"),
        ("{{ 'axb' | replace('x', m.role) }}", "a«user»b"),
        ("{{ m.list }}{{ m.list | tojson }}", "['«x»', '«y»'][\"«x»\", \"«y»\"]"),
        ("{{ {'a': m.role} | tojson(indent=1) }}", "{\n \"a\": \"«user»\"\n}"),
        ("{{ '%s|%5s|%r' % (m.role, m.list[0], m.role) }}", "«user»|    «x»|'«user»'"),
        ("{{ '{0}:{1:>3}:{0!r}'.format(m.role, m.list[0]) }}", "«user»:  «x»:'«user»'"),
        ("{% for k in m %}{{ k }},{% endfor %}", "«role»,«text»,«list»,«key<»,«n»,"),
        ("{% for c in m.role %}{{ c }}.{% endfor %}", "«u».«s».«e».«r»."),
        ("{% set x %}<{{ m.role }}>{% endset %}{{ x }}{{ x | length }}", "<«user»>6"),
        ("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(m.role) }}", "<«user»>"),
        ("{% filter upper %}a{{ m.role }}{% endfilter %}", "A«USER»"),
        ("{{ m.role | e }}{{ '<' ~ m.text | e }}", "«user»<« Ab é c »"),
        ("{{ ('a\nb' ~ m.role) | indent(2) }}", "a\n  b«user»"),
        ("{{ m.list | join(', ') }}{{ m.list | first }}{{ m.list | sort | last }}", "«x», «yxy»"),
        ("{{ (m.role ~ '=v').partition('=') }}", "('«user»', '=', 'v')"),
        ("{{ m.role.center(8) }}{{ ('-' ~ m.role).zfill(7) }}", "  «user»  -00«user»"),
        ("{{ ['u' ~ m.role, 'b'] | map('upper') | list }}", "['U«USER»', 'B']"),
        ("{{ m.role == 'user' }}{{ 'se' in m.role }}{{ m['ro' ~ 'le'] | length }}", "TrueTrue4"),
        ("{{ ('a b ' ~ m.role ~ ' c') | truncate(8, true, '', 0) }}", "a b «user»"),
        ("{{ ('<b>' ~ m.role ~ '</b>') | striptags }}", "«user»"),
        ("{{ ('x ' ~ m.role) | wordwrap(3) }}", "«x u»\n«ser»"),
        ("{{ '%c' % 60 }}", "«<»"),
        (
            "{{ 'http://a.com' | urlize(rel=m.role) }}",
            "«<a href=\"http://a.com\" rel=\"noopener user\">http://a.com</a>»",
        ),
    ] {
        assert_eq!(marked(source, &message), wanted, "{source}");
    }
}

#[test]
fn errors_name_the_line() {
    for (source, wanted) in [
        ("a\n{{ 1 / 0 }}", "line 2: division by zero"),
        ("\n\n{% if x.y %}{% endif %}", "line 3: 'x' is undefined"),
        ("{% for a in [1] %}\n{% set b = 1 + 'a' %}{% endfor %}", "line 2: unsupported operand"),
        ("\n{{ }}", "line 2: Expected an expression, got 'end of print statement'"),
        ("\n\n{% endif %}", "line 3: Encountered unknown tag 'endif'."),
        (
            "{% if x %}\n\n",
            "Unexpected end of template. The innermost block that needs to be closed is 'if'.",
        ),
        ("\r\n\r\n{{ 'a' | nope }}", "line 3: No filter named 'nope'."),
        ("{{ {'a': 1}.b.c }}", "'dict object' has no attribute 'b'"),
        ("{{ m[0].x }}", "None has no element 0"),
        ("{{ raise_exception('no ' ~ 'tools') }}", "chat template: no tools"),
    ] {
        let error = fails(source);
        assert!(error.contains(wanted), "{source:?}: {error}");
    }
}
