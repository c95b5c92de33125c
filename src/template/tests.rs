use super::*;

fn subject() -> Subject {
    let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Map>();
    Subject {
        name: "c1".to_owned(),
        architecture: "x86_64".to_owned(),
        privileged: false,
        ephemeral: true,
        config: map(&[("user.a", "A\n\n"), ("user.num", "42"), ("user.network_mode", "link-local")]),
        devices: BTreeMap::from([("root".to_owned(), map(&[("type", "disk"), ("path", "/")]))]),
    }
}

fn rendered(source: &str) -> Result<String, Error> {
    let properties = [("default", "D"), ("list", "a,b")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let subject = subject();
    render(source, &Context { subject: &subject, trigger: "start", path: "/etc/x", properties: &properties })
}

#[track_caller]
fn is(source: &str, expected: &str) {
    assert_eq!(rendered(source).as_deref(), Ok(expected), "{source}");
}

#[test]
fn expressions_mean_what_lxd_means_by_them() {
    // Each was seen with LXD 5.0.2.
    for (source, expected) in [
        (
            "{{ foo }}|{{ foo.bar }}|{{ 1 == 1 }}|{{ 1.5 }}|{{ 7/2 }}|{{ 7%2 }}|{{ 2^3 }}",
            "||True|1.500000|3|1|8.000000",
        ),
        (r#"{{ "a"+"b" }}{{ 1+"2" }}"#, "03"),
        (r#"{% if foo == "" %}eq{% else %}ne{% endif %}{% if not foo %}falsy{% endif %}"#, "nefalsy"),
        ("{% if false and true or true %}T{% else %}F{% endif %}{% if true or true and false %}T{% endif %}", "FT"),
        ("{% if not 1 == 2 %}T{% else %}F{% endif %}", "F"),
        (r#"{{ "a" or "b" }} {{ 1 and 2 }} {{ true }} {{ nil }} {{ None }}"#, "True True True  "),
        ("{{ config.user }}|{{ devices.root.type }}|{{ devices.root.path }}", "|disk|/"),
        ("{{ container.name == \"c1\" }} {{ container.privileged }} {{ instance.ephemeral }}", "True false true"),
        (r#"{% if "a" in "abc" %}in{% endif %}{% if "default" in properties %}inmap{% endif %}"#, "ininmap"),
        (r#"{% if 1 < 2 && !false %}T{% endif %}{% if 1 <> 2 %}NE{% endif %}{{ -3 }}{{ 1 - 3 }}"#, "TNE-3-2"),
        ("{{ 10/4.0 }}|{{ 1000000*1000000 }}|{{ 2*3+4 }}|{{ 2+3*4 }}|{{ (2+3)*4 }}", "2.500000|1000000000000|10|14|20"),
        (r#"{% if 1 == 1.0 %}numeq{% endif %}{% if "1" == 1 %}mixeq{% endif %}"#, ""),
        (r#"{% if config_get("user.num","") > 40 %}gt{% endif %}{{ config_get("user.num", "") + 1 }}"#, "gt43"),
        (r#"{{ "b" > "a" }}"#, "False"),
        ("{% if not (1 == 2) %}np{% endif %}{{ true and (false or true) }}", "npTrue"),
        (r#"{{ "}}" }}{{ "%}" }}{{ 'single' }}{{ "a\"b" }}"#, "}}%}singlea\"b"),
    ] {
        is(source, expected);
    }
}

#[test]
fn config_get_gives_values_without_newlines_at_their_end() {
    is(r#"[{{ config_get("user.a","d") }}][{{ config_get("user.none", "d") }}]"#, "[A][d]");
    is(r#"{{ config_get("user.none", properties.default) }}"#, "D");
    is(r#"{{ config_get("user.b", "")|default:"q" }}{{ x|default:config_get("user.a","z") }}"#, "qA");
    // The default stays as it is.
    is(r#"[{{ config_get("user.none", "d\n\n") }}]"#, "[d\n\n]");
    is(r#"{{ config["user.num"] }}"#, "42");
}

#[test]
fn filters_are_those_of_django() {
    for (source, expected) in [
        (r#"{{ "abc"|upper }}|{{ foo|default:"x" }}|{{ ""|default:"x" }}"#, "ABC|x|x"),
        (r#"{{ "a,b"|split:","|join:"-" }}|{{ "abc"|length }}|{{ "abc"|first }}|{{ "abc"|slice:"1:2" }}"#, "a-b|3|a|b"),
        (r#"{{ "<a>&'" }}|{{ "<a>"|escape }}|{{ "<a>"|safe }}"#, "<a>&'|&lt;a&gt;|<a>"),
        (
            r#"{{ 5|stringformat:"%05d" }}|{{ "5"|integer + 2 }}|{{ "5"|float }}|{{ 3.14159|floatformat:2 }}"#,
            "00005|7|5.000000|3.14",
        ),
        (
            r#"{{ true|yesno:"ja,nein" }}|{{ foo|default_if_none:"n" }}|{{ "abc"|last }}|{{ "a b c"|wordcount }}"#,
            "ja|n|c|3",
        ),
        (
            r#"{{ "a b"|title }}|{{ "a b"|capfirst }}|{{ "x"|add:"y" }}|{{ 1|add:2 }}|{{ "aXb"|cut:"X" }}"#,
            "A B|A b|xy|3|ab",
        ),
        (r#"[{{ "x"|ljust:4 }}{{ "x"|rjust:4 }}{{ "x"|center:4 }}]{{ "x"|length_is:1 }}"#, "[x      x  x ]True"),
        (r#"{{ "abcdef"|truncatechars:4 }}{{ "äb"|length }}{{ "ä"|upper }}"#, "a...2Ä"),
        ("{% filter upper %}abc{% endfilter %}", "ABC"),
    ] {
        is(source, expected);
    }
}

#[test]
fn tags_are_those_of_django() {
    for (source, expected) in [
        ("{% for k, v in properties %}{{ k }}={{ v }};{% endfor %}", "default=D;list=a,b;"),
        (r#"{% for k in "abc" %}{{ k }},{% endfor %}{% for k in "abc" reversed %}{{ k }}{% endfor %}"#, "a,b,c,cba"),
        (r#"{% for x in "b,a,c"|split:"," sorted %}{{ x }}{% endfor %}"#, "abc"),
        (r#"{% for k in "" %}x{% empty %}none{% endfor %}"#, "none"),
        (
            r#"{% for c in "ab" %}{% for d in "xy" %}{{ forloop.Parentloop.Counter }}{{ forloop.counter0 }}{{ forloop.Revcounter }}{{ forloop.First }};{% endfor %}{% endfor %}"#,
            "102True;111False;202True;211False;",
        ),
        (
            r#"{% set x = 1 %}{{ x }}{% for k in "ab" %}{% set x = k %}{% endfor %}{{ x }}{% if true %}{% set x = 9 %}{% endif %}{{ x }}"#,
            "119",
        ),
        ("x {%- if true -%}  y  {%- endif -%} z", "xyz"),
        ("{# comment #}a{% comment %}b {{ bad( }} {% endcomment %}c", "ac"),
        (
            r#"{% ifequal container.name "c1" %}eq{% else %}ne{% endifequal %}{% ifnotequal 1 2 %}ne{% endifnotequal %}"#,
            "eqne",
        ),
        (
            r#"{% with a=1 b="x" %}{{ a }}{{ b }}{% endwith %}{% with container.name as n %}{{ n }}{% endwith %}"#,
            "1xc1",
        ),
        (r#"{% firstof foo "b" %}|{% templatetag openblock %}|{% verbatim %}{{ x }}{% endverbatim %}"#, "b|{%|{{ x }}"),
        (r#"{% autoescape off %}{{ "<a>" }}{% endautoescape %}"#, "<a>"),
        ("text { single } %} }} #}\n\n", "text { single } %} }} #}\n\n"),
        ("{{ trigger }} {{ path }}\n", "start /etc/x\n"),
        ("{{- \"x\" -}}  y", "xy"),
        ("{{% if true %}a{% endif %}}", "{a}"),
    ] {
        if source.starts_with("{{%") {
            // As everywhere, the first two braces begin what is shown.
            assert!(rendered(source).is_err());
            continue;
        }
        is(source, expected);
    }
}

#[test]
fn what_images_bring_is_understood() {
    is("{{ container.name }}\n", "c1\n");
    is(
        "127.0.0.1\tlocalhost\n127.0.1.1\t{{ container.name }}\n# {{ not\u{20}a }}\n",
        "127.0.0.1\tlocalhost\n127.0.1.1\tc1\n# True\n",
    );
    is(
        "#cloud-config\ninstance-id: {{ container.name }}\nlocal-hostname: {{ container.name }}\n{{ config_get(\"user.meta-data\", \"\") }}\n",
        "#cloud-config\ninstance-id: c1\nlocal-hostname: c1\n\n",
    );
    is("{{ config_get(\"user.user-data\", properties.default) }}\n", "D\n");
    let network = r#"{% if config_get("user.network-config", "") == "" %}version: 1
config:
  - type: physical
    name: eth0
    subnets:
      - type: {% if config_get("user.network_mode", "") == "link-local" %}manual{% else %}dhcp{% endif %}
        control: auto{% else %}{{ config_get("user.network-config", "") }}{% endif %}
"#;
    is(
        network,
        "version: 1\nconfig:\n  - type: physical\n    name: eth0\n    subnets:\n      - type: manual\n        control: auto\n",
    );
    is(
        "{% if config_get(\"cloud-init.network-config\", \"\") == \"\" -%}\n  default\n{%- else -%}\n{{ config_get(\"cloud-init.network-config\", \"\") }}\n{%- endif %}\n",
        "default\n",
    );
    is("{{ config_get(\"cloud-init.user-data\", config_get(\"user.user-data\", properties.default)) }}", "D");
    is(
        "auto eth0\niface eth0 inet {% if config_get(\"user.network_mode\", \"\") == \"dhcp\" %}dhcp{% else %}{% if config_get(\"user.network_mode\", \"\") == \"link-local\" %}manual{% else %}dhcp{% endif %}{% endif %}\n",
        "auto eth0\niface eth0 inet manual\n",
    );
    is(
        "{% for name, device in devices %}{{ name }}: {{ device.type }}\n{% endfor %}{% for name, device in devices %}{{ device[\"path\"] }}{% endfor %}",
        "root: disk\n/",
    );
    is(
        "HOSTNAME={{ container.name }}\n{% if container.privileged == \"true\" %}priv{% elif container.architecture == \"x86_64\" %}amd64{% endif %}",
        "HOSTNAME=c1\namd64",
    );
}

#[test]
fn errors_tell_the_line() {
    for (source, line, reason) in [
        ("a\nb {{ \"x", 2, "\"}}\" is missing"),
        ("\n{% if true %}\n", 2, "{% endif %} is missing"),
        ("{% endif %}", 1, "ends nothing"),
        ("{% if a %}{% endfor %}", 1, "{% endif %} is due"),
        ("{% else %}", 1, "outside of an if"),
        ("\n\n{% include \"/etc/passwd\" %}", 3, "not allowed"),
        ("{% extends \"x\" %}", 1, "not allowed"),
        ("{% import \"x\" y %}", 1, "not allowed"),
        ("{% ssi \"/etc/passwd\" %}", 1, "not allowed"),
        ("{% badtag %}", 1, "\"badtag\" is not known"),
        ("{{ x|nofilter }}", 1, "no filter \"nofilter\""),
        ("{# x\n#}\n{{ 1 2 }}", 3, "2 is too much"),
        ("{{ }}", 1, "a value is missing"),
        ("{{ foo() }}", 1, "no function"),
        ("{{ config_get(\"a\") }}", 1, "two arguments"),
        ("{% comment %}\n{% x %}", 1, "{% endcomment %} is missing"),
        ("a\n{#\n", 2, "\"#}\" is missing"),
        ("{% comment %}\n\n{% endcomment %}\n{% if -%}\n\n{% endif %}", 4, "a value is missing"),
        ("\n\n{{ 7 / 0 }}", 3, "no number"),
        ("{% if true -%}\n\n\n{{ 7\n/ 0 }}{% endif %}", 4, "no number"),
        ("{{ \"a\"|ljust:99999999 }}", 1, "too large"),
        ("\u{1}", 1, "U+0001"),
        ("{% for %}", 1, "a name is missing"),
        ("{{ \u{20ac} }}", 1, "no meaning"),
    ] {
        let error = rendered(source).unwrap_err();
        assert_eq!(error.line, Some(line), "{source:?}: {error}");
        assert!(error.reason.contains(reason), "{source:?}: {error}");
    }
}

#[test]
fn work_and_memory_are_bounded() {
    let doubling = format!("{{% set x = \"aaaaaaaa\" %}}{}", "{% set x = x|add:x %}".repeat(60));
    let nested = |inner: &str| format!("{}{inner}{}", "{% for a in l %}".repeat(40), "{% endfor %}".repeat(40));
    let list = "{% set l = \"aaaaaaaaaa\" %}";
    for source in [doubling, format!("{list}{}", nested("x"))] {
        let begun = std::time::Instant::now();
        let error = rendered(&source).unwrap_err();
        assert!(error.reason.contains("too long"), "{error}");
        assert!(begun.elapsed().as_secs() < 10);
    }
    for source in [
        format!("{{{{ {}1{} }}}}", "(".repeat(10_000), ")".repeat(10_000)),
        format!("{{{{ {}1 }}}}", "not ".repeat(10_000)),
        format!("{{{{ 1{} }}}}", " + 1".repeat(10_000)),
        format!("{{{{ 2{} }}}}", "^2".repeat(10_000)),
        format!("{{{{ a{} }}}}", "|upper".repeat(10_000)),
        format!("{{{{ a{} }}}}", ".b".repeat(10_000)),
        "{% if true %}".repeat(10_000),
        "{{ config_get(".repeat(1000),
        "x".repeat(MAX_SOURCE + 1),
    ] {
        rendered(&source).unwrap_err();
    }
}
