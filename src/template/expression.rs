//! Expressions: read into minijinja's form of them, with the meaning they have for LXD's templates.
//!
//! ```text
//!  logic   = compared [ ("and" | "&&" | "or" | "||") logic ]     compared = sum [ ("==" | "!=" | … | "in") sum ]
//!  sum     = [ "not" | "!" ] [ "-" ] product { ("+" | "-") product }
//!  product = power { ("*" | "/" | "%") power }                   power    = operand [ "^" power ]
//!  operand = ( "(" logic ")" | literal | config_get "(" logic "," logic ")" | name { "." name | "[" logic "]" } )
//!            { "|" filter [ ":" argument ] }
//! ```
//! So `not a == b` is `(not a) == b`, and `a and b or c` is `a and (b or c)`: as LXD 5.0.2 reads them (seen there).
//! Operators become calls of functions ([`super::value`]), so that they mean what they mean there whatever minijinja thinks.

use super::token::{Token, Tokens};
use super::{Error, filters, translate};

/// The name of `config_get` after the translation.
pub(super) const CONFIG_GET: &str = "f_config_get";

/// So deep may parentheses lie in each other; each level takes several of the stack's frames.
const DEPTH: usize = 40;
/// So many operators may stand in one expression: what they become lies one in the other, too.
const OPERATORS: usize = 60;

/// Reads expressions off the front of words.
pub(super) struct Reader {
    words: std::iter::Peekable<std::vec::IntoIter<(usize, Token)>>,
    line: usize,
    depth: usize,
    operators: usize,
    /// How many loops are around.
    loops: usize,
}

impl Reader {
    /// `line`: where the words begin. `loops`: how many loops are around.
    pub(super) fn new(words: Tokens, line: usize, loops: usize) -> Self {
        Self { words: words.into_iter().peekable(), line, depth: 0, operators: 0, loops }
    }

    pub(super) fn error(&self, reason: impl Into<String>) -> Error {
        Error::at(self.line, reason)
    }

    pub(super) fn next(&mut self) -> Option<Token> {
        let (line, token) = self.words.next()?;
        self.line = line;
        Some(token)
    }

    fn peek(&mut self) -> Option<&Token> {
        self.words.peek().map(|(_, token)| token)
    }

    /// Takes this sign, if it is the next word.
    pub(super) fn sign(&mut self, sign: &str) -> bool {
        let there = matches!(self.peek(), Some(Token::Sign(found)) if *found == sign);
        if there {
            self.next();
        }
        there
    }

    /// Takes this name, if it is the next word.
    pub(super) fn word(&mut self, word: &str) -> bool {
        let there = matches!(self.peek(), Some(Token::Name(found)) if found == word);
        if there {
            self.next();
        }
        there
    }

    /// A name of a variable.
    pub(super) fn name(&mut self) -> Result<String, Error> {
        match self.next() {
            Some(Token::Name(name)) => Ok(name),
            _ => Err(self.error("a name is missing")),
        }
    }

    pub(super) fn is_empty(&mut self) -> bool {
        self.peek().is_none()
    }

    /// Nothing must follow.
    pub(super) fn end(&mut self) -> Result<(), Error> {
        match self.next() {
            None => Ok(()),
            Some(token) => Err(self.error(format!("{} is too much here", shown(&token)))),
        }
    }

    fn count(&mut self) -> Result<(), Error> {
        self.operators += 1;
        if self.operators > OPERATORS { Err(self.error("the expression is too long")) } else { Ok(()) }
    }

    /// An expression.
    pub(super) fn expression(&mut self) -> Result<String, Error> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(self.error("the expression is nested too deeply"));
        }
        let left = self.compared()?;
        let operator = if self.word("and") || self.sign("&&") {
            "and"
        } else if self.word("or") || self.sign("||") {
            "or"
        } else {
            self.depth -= 1;
            return Ok(left);
        };
        self.count()?;
        let right = self.expression()?;
        self.depth -= 1;
        Ok(format!("(f_bool({left}) {operator} f_bool({right}))"))
    }

    fn compared(&mut self) -> Result<String, Error> {
        let left = self.sum()?;
        let operator = match self.peek() {
            Some(Token::Sign("==")) => "f_eq",
            Some(Token::Sign("!=" | "<>")) => "f_ne",
            Some(Token::Sign("<")) => "f_lt",
            Some(Token::Sign("<=")) => "f_le",
            Some(Token::Sign(">")) => "f_gt",
            Some(Token::Sign(">=")) => "f_ge",
            Some(Token::Name(word)) if word == "in" => "f_in",
            Some(Token::Name(word)) if word == "not" => {
                self.next();
                if !self.word("in") {
                    return Err(self.error("\"not\" after a value must be \"not in\""));
                }
                self.count()?;
                return Ok(format!("f_not(f_in({left}, {}))", self.sum()?));
            }
            _ => return Ok(left),
        };
        self.next();
        self.count()?;
        Ok(format!("{operator}({left}, {})", self.sum()?))
    }

    fn sum(&mut self) -> Result<String, Error> {
        let not = self.word("not") || self.sign("!");
        let minus = !self.sign("+") && self.sign("-");
        let mut left = self.product()?;
        if minus {
            left = format!("f_neg({left})");
        }
        if not {
            left = format!("f_not({left})");
        }
        loop {
            let operator = match self.peek() {
                Some(Token::Sign("+")) => "f_add",
                Some(Token::Sign("-")) => "f_sub",
                _ => return Ok(left),
            };
            self.next();
            self.count()?;
            left = format!("{operator}({left}, {})", self.product()?);
        }
    }

    fn product(&mut self) -> Result<String, Error> {
        let mut left = self.power()?;
        loop {
            let operator = match self.peek() {
                Some(Token::Sign("*")) => "f_mul",
                Some(Token::Sign("/")) => "f_div",
                Some(Token::Sign("%")) => "f_mod",
                _ => return Ok(left),
            };
            self.next();
            self.count()?;
            left = format!("{operator}({left}, {})", self.power()?);
        }
    }

    fn power(&mut self) -> Result<String, Error> {
        let base = self.operand()?;
        if !self.sign("^") {
            return Ok(base);
        }
        self.count()?;
        Ok(format!("f_pow({base}, {})", self.power()?))
    }

    /// A value with its filters.
    pub(super) fn operand(&mut self) -> Result<String, Error> {
        let mut value = self.primary()?;
        while self.sign("|") {
            self.count()?;
            value = format!("({value}|{})", self.filter()?);
        }
        Ok(value)
    }

    /// A filter with its argument.
    pub(super) fn filter(&mut self) -> Result<String, Error> {
        let name = self.name()?;
        let filter = filters::find(&name).ok_or_else(|| self.error(format!("there is no filter {name:?}")))?;
        let argument = if self.sign(":") { Some(self.primary()?) } else { None };
        match (filter.argument, argument) {
            (filters::Argument::None, Some(_)) => Err(self.error(format!("the filter {name:?} takes no argument"))),
            (filters::Argument::Needed, None) => {
                Err(self.error(format!("the filter {name:?} needs an argument: {name}:\"…\"")))
            }
            (_, argument) => Ok(format!("p_{name}({})", argument.unwrap_or_default())),
        }
    }

    fn primary(&mut self) -> Result<String, Error> {
        match self.next() {
            Some(Token::Text(text)) => Ok(translate::literal(&text)),
            Some(Token::Integer(number)) => Ok(number.to_string()),
            Some(Token::Float(number)) => Ok(format!("{number:?}")),
            Some(Token::Sign("(")) => {
                let inner = self.expression()?;
                if self.sign(")") { Ok(format!("({inner})")) } else { Err(self.error("\")\" is missing")) }
            }
            Some(Token::Name(name)) => self.named(&name),
            Some(other) => Err(self.error(format!("a value is missing before {}", shown(&other)))),
            None => Err(self.error("a value is missing")),
        }
    }

    fn named(&mut self, name: &str) -> Result<String, Error> {
        let mut value = match name {
            "true" | "True" => "true".to_owned(),
            "false" | "False" => "false".to_owned(),
            "nil" | "None" | "none" => "none".to_owned(),
            "and" | "or" | "not" | "in" | "as" => {
                return Err(self.error(format!("a value is missing before {name:?}")));
            }
            "config_get" => return self.config_get(),
            "forloop" if self.loops > 0 => return self.forloop(),
            _ => translate::variable(name),
        };
        loop {
            if self.sign(".") {
                value = match self.next() {
                    Some(Token::Name(field)) => format!("{value}[{}]", translate::literal(&field)),
                    Some(Token::Integer(index)) => format!("f_index({value}, {index})"),
                    _ => return Err(self.error("a name is missing after the dot")),
                };
            } else if self.sign("[") {
                let key = self.expression()?;
                if !self.sign("]") {
                    return Err(self.error("\"]\" is missing"));
                }
                value = format!("{value}[{key}]");
            } else if self.sign("(") {
                return Err(self.error(format!("{name:?} is no function: config_get(key, default) is the only one")));
            } else {
                return Ok(value);
            }
            self.count()?;
        }
    }

    fn config_get(&mut self) -> Result<String, Error> {
        let usage = "config_get takes two arguments: config_get(key, default)";
        if !self.sign("(") {
            return Err(self.error(usage));
        }
        let key = self.expression()?;
        if !self.sign(",") {
            return Err(self.error(usage));
        }
        let default = self.expression()?;
        if !self.sign(")") {
            return Err(self.error(usage));
        }
        self.count()?;
        Ok(format!("{CONFIG_GET}(f_text({key}), {default})"))
    }

    fn forloop(&mut self) -> Result<String, Error> {
        let mut level = self.loops;
        while self.sign(".") {
            let field = self.name()?;
            let of = match field.to_ascii_lowercase().as_str() {
                "parentloop" if level > 1 => {
                    level -= 1;
                    continue;
                }
                "counter" => "index",
                "counter0" => "index0",
                "revcounter" => "revindex",
                "revcounter0" => "revindex0",
                "first" => "first",
                "last" => "last",
                _ => return Err(self.error(format!("a forloop has no {field:?}"))),
            };
            return Ok(format!("{}.{of}", translate::loop_variable(level)));
        }
        Err(self.error("forloop needs one of its fields, such as forloop.Counter"))
    }
}

fn shown(token: &Token) -> String {
    match token {
        Token::Name(name) => format!("{name:?}"),
        Token::Text(_) => "a quoted text".to_owned(),
        Token::Integer(number) => number.to_string(),
        Token::Float(number) => number.to_string(),
        Token::Sign(sign) => format!("{sign:?}"),
    }
}
